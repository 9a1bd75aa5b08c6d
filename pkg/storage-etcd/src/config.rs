//! Where etcd is and how to reach it: upstream's `--etcd-*` flags.

use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
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

    /// The client's options.
    pub(crate) fn connect_options(&self) -> Result<ConnectOptions, Error> {
        const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
        const KEEP_ALIVE: Duration = Duration::from_secs(30);
        const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
        if self.servers.is_empty() {
            return Err(Error::Invalid("no etcd server is given".into()));
        }
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let secure = self.servers.iter().filter(|url| url.starts_with("https://")).count();
        if secure == 0 {
            return Ok(options);
        }
        if secure < self.servers.len() {
            return Err(Error::Invalid("etcd servers must all be https or all be http".into()));
        }
        let ca = self.ca.as_ref().ok_or_else(|| {
            Error::Invalid("etcd servers at https need the certificate of their authority".into())
        })?;
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((certificate, key)) = &self.client {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(options.with_tls(tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let https = || Config::new(vec!["https://127.0.0.1:1".into()]);
        let cases = [
            (Config::new(vec![]), "no etcd server"),
            (Config::new(vec!["https://a:1".into(), "http://b:1".into()]), "must all be https"),
            (https(), "need the certificate"),
        ];
        for (config, expected) in cases {
            let error = config.connect_options().map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Config::new(vec!["http://127.0.0.1:1".into()]).connect_options().is_ok());
        for prefix in ["/registry", "registry/", "/registry/"] {
            assert_eq!(Config { prefix: prefix.into(), ..https() }.root(), "/registry/");
        }
    }
}
