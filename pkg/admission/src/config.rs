//! The file of `--admission-control-config-file`: what plugins are configured with, by name.
//!
//! Source: `apiserver.config.k8s.io/v1` `AdmissionConfiguration`, `k8s.io/apiserver/pkg/admission/config.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use apimachinery::Value;
use apimachinery::meta::str_at;

use crate::ConfigError;

/// Configurations by plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginConfigs(BTreeMap<String, Value>);

impl PluginConfigs {
    /// Reads a configuration. `read` gives the text of another file; relative paths are taken from `folder`.
    pub fn parse(
        text: &[u8],
        folder: &Path,
        read: &dyn Fn(&Path) -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, ConfigError> {
        let file = yaml(text)?;
        let kind = (str_at(&file, &["apiVersion"]), str_at(&file, &["kind"]));
        if kind != ("apiserver.config.k8s.io/v1", "AdmissionConfiguration") {
            let why = "must be an AdmissionConfiguration of apiserver.config.k8s.io/v1";
            return Err(ConfigError::File(why.into()));
        }
        let mut configs = BTreeMap::new();
        for plugin in file.get("plugins").and_then(Value::as_array).into_iter().flatten() {
            let (name, path) = (str_at(plugin, &["name"]), str_at(plugin, &["path"]));
            let config = match (path, plugin.get("configuration")) {
                (_, Some(config)) if !config.is_null() => config.clone(),
                ("", _) => continue,
                (path, _) => {
                    let path: PathBuf = folder.join(path);
                    let text =
                        read(&path).map_err(|e| ConfigError::File(format!("{}: {e}", path.display())))?;
                    yaml(&text)?
                }
            };
            configs.insert(name.to_owned(), config);
        }
        Ok(Self(configs))
    }

    /// The configuration of a plugin.
    pub(crate) fn of(&self, plugin: &str) -> Option<&Value> {
        self.0.get(plugin)
    }

    /// Who is configured.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn yaml(text: &[u8]) -> Result<Value, ConfigError> {
    let (value, duplicates) = apimachinery::decode::untyped(text, apimachinery::decode::Format::Yaml)
        .map_err(|status| ConfigError::File(status.message))?;
    match duplicates.first() {
        Some(duplicate) => Err(ConfigError::File(duplicate.clone())),
        None => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PluginConfigs, String> {
        let read = |path: &Path| match path.to_str() {
            Some("/etc/a.yaml") => Ok(b"limits: []".to_vec()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        PluginConfigs::parse(text.as_bytes(), Path::new("/etc"), &read).map_err(|e| e.to_string())
    }

    #[test]
    fn plugins_are_configured_in_place_or_in_a_file() {
        const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        let good = "plugins:\n- {name: A, path: a.yaml}\n- {name: B, configuration: {x: 1}}\n- {name: C}\n";
        let configs = parse(&format!("{HEAD}{good}")).expect("configurations");
        assert_eq!(configs.names().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(configs.of("B").and_then(|c| c["x"].as_i64()), Some(1));
        for bad in ["kind: Pod\n", "{", "plugins:\n- {name: A, path: none.yaml}\n"] {
            let text = if bad.starts_with("plugins") { format!("{HEAD}{bad}") } else { bad.to_owned() };
            assert!(parse(&text).is_err(), "{bad}");
        }
    }
}
