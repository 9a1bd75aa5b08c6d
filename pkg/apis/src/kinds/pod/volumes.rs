//! Validation of volumes. Source: `ValidateVolumes` in `pkg/apis/core/validation`.

use std::collections::{BTreeMap, BTreeSet};

use super::container::{descending, resource_field_ref, volume_field_ref};
use crate::cursor::{At, Errors, one_of, shape};
use crate::kinds::storage;
use crate::names;

/// Shortest lifetime of a projected token, in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;
/// Longest one.
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// Sources whose named fields are required.
const REQUIRED: [(&str, &[&str]); 17] = [
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("flexVolume", &["driver"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("configMap", &["name"]),
    ("portworxVolume", &["volumeID"]),
    ("csi", &["driver"]),
    ("image", &["reference"]),
];

/// Validates the volumes; answers their names, and whether each may be a block device.
pub(super) fn validate<'a>(errors: &mut Errors, volumes: &At<'a>) -> BTreeMap<&'a str, bool> {
    let mut seen = BTreeMap::new();
    for volume in volumes.items() {
        let name = volume.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            shape(errors, &name, names::dns1123_label(name.text(), false));
            if seen.contains_key(name.text()) {
                errors.push(name.duplicate());
            }
        }
        source(errors, &volume);
        let block = volume.get("persistentVolumeClaim").present() || volume.get("ephemeral").present();
        // of several with one name the first counts
        seen.entry(name.text()).or_insert(block);
    }
    seen
}

fn source(errors: &mut Errors, volume: &At<'_>) {
    let mut kinds = volume.value().and_then(|v| v.as_object()).into_iter().flatten();
    let Some((first, _)) = kinds.find(|(k, v)| *k != "name" && !v.is_null()) else {
        errors.push(volume.required("must specify a volume type"));
        return;
    };
    for (kind, value) in kinds {
        if kind != "name" && !value.is_null() {
            errors.push(volume.get(kind).forbidden("may not specify more than 1 volume type"));
        }
    }
    let source = volume.get(first);
    for (kind, fields) in REQUIRED {
        if kind == first {
            for field in fields {
                if source.get(field).is_empty() {
                    errors.push(source.get(field).required(""));
                }
            }
        }
    }
    match first.as_str() {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if crate::kinds::resources::quantity(&limit).is_some_and(|q| q.sign() < 0) {
                errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => host_path(errors, &source),
        "nfs" if !source.get("path").is_empty() && !source.get("path").text().starts_with('/') => {
            errors.push(source.get("path").invalid("must be an absolute path"));
        }
        "secret" | "configMap" => {
            mode(errors, &source.get("defaultMode"));
            key_to_paths(errors, &source.get("items"));
        }
        "downwardAPI" => {
            mode(errors, &source.get("defaultMode"));
            downward_files(errors, &source.get("items"));
        }
        "projected" => projected(errors, &source),
        "ephemeral" => {
            let template = source.get("volumeClaimTemplate");
            if template.present() {
                storage::claim_spec(errors, &template.get("spec"));
            } else {
                errors.push(template.required(""));
            }
        }
        "image" => one_of(errors, &source.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]),
        _ => {}
    }
}

fn host_path(errors: &mut Errors, source: &At<'_>) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let (path, kind) = (source.get("path"), source.get("type"));
    if path.is_empty() {
        errors.push(path.required(""));
    } else if names::has_back_step(path.text()) {
        errors.push(path.invalid("must not contain '..'"));
    }
    if kind.present() && !TYPES.contains(&kind.text()) {
        errors.push(kind.not_supported(&TYPES));
    }
}

fn mode(errors: &mut Errors, mode: &At<'_>) {
    if mode.int().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errors.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A relative path that neither steps back nor starts with two dots.
fn file_path(errors: &mut Errors, path: &At<'_>) {
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    descending(errors, path);
    if path.text().starts_with("..") && !names::has_back_step(path.text()) {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn key_to_paths(errors: &mut Errors, items: &At<'_>) {
    for item in items.items() {
        if item.get("key").is_empty() {
            errors.push(item.get("key").required(""));
        }
        file_path(errors, &item.get("path"));
        mode(errors, &item.get("mode"));
    }
}

fn downward_files(errors: &mut Errors, items: &At<'_>) {
    for item in items.items() {
        file_path(errors, &item.get("path"));
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        match (field.present(), resource.present()) {
            (true, true) => {
                errors
                    .push(item.invalid("fieldRef and resourceFieldRef can not be specified simultaneously"));
            }
            (true, false) => volume_field_ref(errors, &field),
            (false, true) => resource_field_ref(errors, &resource, true),
            (false, false) => {
                errors.push(item.required("one of fieldRef and resourceFieldRef is required"));
            }
        }
        mode(errors, &item.get("mode"));
    }
}

fn projected(errors: &mut Errors, source: &At<'_>) {
    mode(errors, &source.get("defaultMode"));
    let mut paths = BTreeSet::new();
    for entry in source.get("sources").items() {
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let inner = entry.get(kind);
            if !inner.present() {
                continue;
            }
            count += 1;
            if count > 1 {
                errors.push(inner.forbidden("may not specify more than 1 volume type"));
                continue;
            }
            projected_source(errors, kind, &inner);
            let single = inner.get("path");
            let several = inner.get("items").items().map(|i| i.get("path"));
            for path in several.chain(std::iter::once(single)).filter(|p| !p.is_empty()) {
                if !paths.insert(path.text()) {
                    errors.push(path.invalid("conflicting duplicate paths"));
                }
            }
        }
    }
}

fn projected_source(errors: &mut Errors, kind: &str, inner: &At<'_>) {
    match kind {
        "secret" | "configMap" => {
            if inner.get("name").is_empty() {
                errors.push(inner.get("name").required(""));
            }
            key_to_paths(errors, &inner.get("items"));
        }
        "downwardAPI" => downward_files(errors, &inner.get("items")),
        "serviceAccountToken" => {
            let seconds = inner.get("expirationSeconds");
            if seconds.int_or_zero() < MIN_TOKEN_SECONDS {
                errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            } else if seconds.int_or_zero() > MAX_TOKEN_SECONDS {
                errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            if inner.get("path").is_empty() {
                errors.push(inner.get("path").required(""));
            } else {
                file_path(errors, &inner.get("path"));
            }
        }
        _ => {}
    }
}
