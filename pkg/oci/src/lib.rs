//! Container images as OCI archives, made without an engine.
//!
//! An archive is what `ctr images import` reads: an OCI image layout in a tar file (OCI image specification v1.1).
//! Layers are plain tar with fixed times and owners, so equal inputs make equal bytes.

use std::io::{self, Read, Write};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading an input or writing the archive failed.
    #[error("image archive: {0}")]
    Io(#[from] io::Error),
    /// The configuration could not be serialised.
    #[error("image configuration: {0}")]
    Json(#[from] serde_json::Error),
}

/// A layer under construction.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layer({} bytes)", self.tar.get_ref().len())
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Adds a file at a path without leading slash.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Result<Self, Error> {
        let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Adds a directory.
    pub fn directory(mut self, path: &str, mode: u32) -> Result<Self, Error> {
        self.tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, io::empty())?;
        Ok(self)
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Result<Self, Error> {
        self.tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
        Ok(self)
    }

    /// Adds a file of this machine under its own path, following symbolic links, with its mode.
    pub fn host_file(self, source: &Path, path: &str) -> Result<Self, Error> {
        use std::os::unix::fs::PermissionsExt;
        let mut content = Vec::new();
        let mut file = std::fs::File::open(source)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        file.read_to_end(&mut content)?;
        self.file(path, mode, &content)
    }

    fn finish(self) -> Result<Vec<u8>, Error> {
        Ok(self.tar.into_inner()?)
    }
}

/// What an image runs by default.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub command: Vec<String>,
    /// `KEY=value` pairs.
    pub environment: Vec<String>,
    /// `USER`.
    pub user: String,
    /// `WORKDIR`.
    pub working_directory: String,
    /// `STOPSIGNAL`.
    pub stop_signal: String,
}

impl Config {
    fn document(&self, layers: &[String]) -> Value {
        let mut config = serde_json::Map::new();
        let lists = [("Entrypoint", &self.entrypoint), ("Cmd", &self.command), ("Env", &self.environment)];
        for (key, list) in lists {
            if !list.is_empty() {
                config.insert(key.into(), json!(list));
            }
        }
        let texts = [
            ("User", &self.user),
            ("WorkingDir", &self.working_directory),
            ("StopSignal", &self.stop_signal),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                config.insert(key.into(), json!(text));
            }
        }
        json!({
            "architecture": architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": layers},
        })
    }
}

/// The architecture images are made for, in Go's names: this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes an archive of one image under these names (`registry/name:tag`).
pub fn write_archive(
    out: impl Write,
    names: &[&str],
    layers: Vec<Layer>,
    config: &Config,
) -> Result<(), Error> {
    let mut archive = tar::Builder::new(out);
    let mut append = |path: &str, bytes: &[u8]| {
        archive.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len() as u64), path, bytes)
    };
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // Writes a blob and gives its descriptor.
    let mut blob = |media_type: &str, bytes: &[u8]| -> Result<Value, Error> {
        let id = sha256(bytes);
        append(&format!("blobs/sha256/{}", &id["sha256:".len()..]), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": id, "size": bytes.len()}))
    };
    let mut descriptors = Vec::with_capacity(layers.len());
    for layer in layers {
        descriptors.push(blob(LAYER, &layer.finish()?)?);
    }
    // Layers are not compressed, so a layer's digest is also its diff id.
    let ids: Vec<String> =
        descriptors.iter().filter_map(|d| d["digest"].as_str()).map(str::to_owned).collect();
    let config = blob(CONFIG, &serde_json::to_vec(&config.document(&ids))?)?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
    let manifest = blob(MANIFEST, &serde_json::to_vec(&manifest)?)?;
    let entries: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut entry = manifest.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
            });
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    append("index.json", &serde_json::to_vec(&index)?)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let layer =
            Layer::new().directory("bin", 0o755).and_then(|l| l.file("bin/x", 0o755, b"hi")).expect("layer");
        let mut out = Vec::new();
        let config = Config { entrypoint: vec!["/bin/x".into()], ..Config::default() };
        write_archive(&mut out, &["example.test/x:1", "example.test/x:2"], vec![layer], &config)
            .expect("archive");
        out
    }

    #[test]
    fn equal_inputs_make_equal_archives() {
        assert_eq!(archive(), archive());
    }

    #[test]
    fn digests_name_their_blobs() {
        let bytes = archive();
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(sha256(&content), format!("sha256:{hex}"));
            }
            if path == "index.json" {
                let index: Value = serde_json::from_slice(&content).expect("json");
                assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
            }
            names.push(path);
        }
        assert_eq!(names.len(), 5, "layout, layer, config, manifest, index: {names:?}");
    }
}
