//! Where etcd is and how to reach it: upstream's `--etcd-*` flags.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::sign::SingleCertAndKey;
use storage::Error;

/// How to reach an etcd cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--etcd-servers`: URLs of the members, such as `https://10.0.0.1:2379`.
    pub servers: Vec<String>,
    /// `--etcd-cafile`: certificates (PEM) of the authority that signed the members' certificates; needed for `https`.
    pub ca: Option<Vec<u8>>,
    /// `--etcd-certfile` and `--etcd-keyfile`: the client certificate and its key (PEM).
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// `--etcd-prefix`: what all keys begin with.
    pub prefix: String,
    /// Longest wait for the answer to one request.
    pub request_timeout: Duration,
    /// Past values kept for the caches' watches; more are dropped when all have read them.
    pub history_bytes: usize,
    /// Past values kept at most; beyond, watches that are behind go back to etcd.
    pub max_history_bytes: usize,
}

impl Config {
    /// The defaults with these members.
    pub fn new(servers: Vec<String>) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            servers,
            ca: None,
            client: None,
            prefix: "/registry".into(),
            request_timeout: Duration::from_secs(10),
            history_bytes: 8 * MIB,
            max_history_bytes: 128 * MIB,
        }
    }

    /// The prefix of all keys with one slash at its end.
    pub(crate) fn root(&self) -> String {
        format!("/{}/", self.prefix.trim_matches('/'))
    }

    /// A client of these members.
    pub(crate) fn client(&self) -> Result<etcd::Client, Error> {
        let secure = self.servers.iter().filter(|url| url.starts_with("https://")).count();
        if secure > 0 && secure < self.servers.len() {
            return Err(Error::Invalid("etcd servers must all be https or all be http".into()));
        }
        let tls = if secure > 0 { Some(Arc::new(self.tls()?)) } else { None };
        etcd::Client::new(&self.servers, tls).map_err(|e| Error::Invalid(e.to_string()))
    }

    fn tls(&self) -> Result<ClientConfig, Error> {
        let invalid = |e: &dyn std::fmt::Display| Error::Invalid(format!("TLS to etcd: {e}"));
        let ca = self.ca.as_ref().ok_or_else(|| {
            Error::Invalid("etcd servers at https need the certificate of their authority".into())
        })?;
        let roots = component::tls::roots(ca).map_err(|e| invalid(&e))?;
        let config = ClientConfig::builder_with_provider(component::tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid(&e))?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            Some((certificate, key)) => {
                let key = component::tls::certified_key(certificate, key).map_err(|e| invalid(&e))?;
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_work_is_refused() {
        let https = || Config::new(vec!["https://127.0.0.1:1".into()]);
        let cases = [
            (Config::new(vec![]), "no etcd server"),
            (Config::new(vec!["https://a:1".into(), "http://b:1".into()]), "must all be https"),
            (https(), "need the certificate"),
        ];
        for (config, expected) in cases {
            let error = config.client().map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Config::new(vec!["http://127.0.0.1:1".into()]).client().is_ok());
        for prefix in ["/registry", "registry/", "/registry/"] {
            assert_eq!(Config { prefix: prefix.into(), ..https() }.root(), "/registry/");
        }
    }
}
