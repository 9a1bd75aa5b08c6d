//! An image of Debian's nginx: the program, the libraries it is linked to, and a configuration of our own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use oci::Layer;

/// Serves one directory on port 80 and logs to the container's output. Nothing of it needs more than the image has.
const CONFIGURATION: &str = "\
daemon off;
pid /tmp/nginx.pid;
error_log /dev/stderr;
user nobody nogroup;
events { worker_connections 256; }
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server {
    listen 80;
    root /usr/share/nginx/html;
  }
}
";
const PAGE: &str = "<!DOCTYPE html>\n<title>nginx</title>\n<p>nginx serves this page.\n";
/// Directories that the program wants to find.
const DIRECTORIES: [&str; 11] = [
    "usr",
    "usr/sbin",
    "usr/share",
    "usr/share/nginx",
    "usr/share/nginx/html",
    "etc/nginx",
    "var",
    "var/lib",
    "var/lib/nginx",
    "var/log",
    "var/log/nginx",
];

/// The layer on top of a base with a shell; `root` holds the unpacked packages.
pub(crate) fn layer(root: &Path) -> anyhow::Result<Layer> {
    let program = root.join("usr/sbin/nginx");
    let mut layer = Layer::new();
    for directory in DIRECTORIES {
        layer = layer.directory(directory, 0o755)?;
    }
    layer = layer
        .host_file(&program, "usr/sbin/nginx")?
        .host_file(&root.join("etc/nginx/mime.types"), "etc/nginx/mime.types")?
        .file("etc/nginx/nginx.conf", 0o644, CONFIGURATION.as_bytes())?
        .file("usr/share/nginx/html/index.html", 0o644, PAGE.as_bytes())?;
    for library in libraries(root, &program)? {
        let library = Path::new(&library);
        // Unpacked ones go where the package has them, the machine's own where the machine has them.
        let inside = library.strip_prefix(root).or_else(|_| library.strip_prefix("/"))?;
        layer = layer.host_file(library, inside.to_str().context("a library's path is no text")?)?;
    }
    Ok(layer)
}

/// Paths of the libraries a program is linked to, its interpreter among them, as the dynamic linker finds them.
fn libraries(root: &Path, program: &Path) -> anyhow::Result<Vec<String>> {
    let unpacked = root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let listed =
        Command::new("ldd").env("LD_LIBRARY_PATH", &unpacked).arg(program).output().context("no ldd")?;
    ensure!(listed.status.success(), "ldd {} failed", program.display());
    Ok(paths(&String::from_utf8_lossy(&listed.stdout)))
}

/// What `ldd` lists: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the interpreter.
fn paths(listing: &str) -> Vec<String> {
    let path = |line: &str| {
        let (path, _) = line.rsplit_once(" (")?;
        let path = path.rsplit_once(" => ").map_or(path, |(_, path)| path).trim();
        path.starts_with('/').then(|| path.to_owned())
    };
    listing.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn libraries_are_read_from_what_the_linker_lists() {
        let listing = "\tlinux-vdso.so.1 (0x7f)\n\tlibz.so.1 => /lib/libz.so.1 (0x7e)\n\t/lib64/ld.so.2 (0x7d)\n\tlibgone.so => not found\n";
        assert_eq!(super::paths(listing), ["/lib/libz.so.1", "/lib64/ld.so.2"]);
    }
}
