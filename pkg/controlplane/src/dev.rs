//! Certificates, keys and a kubeconfig for a server on this machine, in one directory: for trying things and for tests.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use component::pki::{Ca, KeyPem, signing_key};

use crate::assemble::{Error, hosts};
use crate::config::{Config, Pem, ServingCertificate, StorageConfig};

/// Issuer of a development server's tokens.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a development server needs.
#[derive(Debug)]
pub struct Dev {
    /// The cluster's certificate authority.
    pub ca: Ca,
    /// A client certificate in `system:masters`.
    pub admin: KeyPem,
    /// The configuration to start with.
    pub config: Config,
}

impl Dev {
    /// Fresh certificates and keys for a server at an address; nothing is written.
    pub fn new(bind: SocketAddr, storage: StorageConfig) -> Result<Self, Error> {
        let ca = Ca::new("kubernetes")?;
        let (private, public) = signing_key()?;
        let mut config = Config {
            storage,
            bind,
            client_ca: Some(Pem::Inline(ca.pem().cert)),
            service_account_keys: vec![Pem::Inline(public)],
            service_account_signing_key: Some(Pem::Inline(private)),
            service_account_issuers: vec![ISSUER.to_owned()],
            service_ranges: vec![ipnet::IpNet::new_assert([10, 96, 0, 0].into(), 16)],
            allow_privileged: true,
            ..Config::default()
        };
        let serving = ca.issue_server("kube-apiserver", None, &hosts(&config))?;
        config.certificate = ServingCertificate::Given(Pem::Inline(serving.cert), Pem::Inline(serving.key));
        let admin = ca.issue_client("kubernetes-admin", Some("system:masters"))?;
        Ok(Self { ca, admin, config })
    }

    /// A kubeconfig of the administrator for a server at an address.
    pub fn kubeconfig(&self, address: SocketAddr) -> String {
        let inline = |text: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let address = if address.ip().is_unspecified() {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        } else {
            address
        };
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: dev\nclusters:\n- name: dev\n  cluster:\n    server: \
             https://{address}\n    certificate-authority-data: {}\ncontexts:\n- name: dev\n  context: {{cluster: dev, user: \
             admin}}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            inline(&self.ca.pem().cert),
            inline(&self.admin.cert),
            inline(&self.admin.key),
        )
    }

    /// Writes kubeconfig, ca.crt, ca.key and sa.key into a directory, secrets readable by their owner alone.
    pub fn write(&self, dir: &Path, address: SocketAddr) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let ca = self.ca.pem();
        let signing = match &self.config.service_account_signing_key {
            Some(Pem::Inline(text)) => text.as_str(),
            _ => "",
        };
        for (name, text, mode) in [
            ("kubeconfig", self.kubeconfig(address).as_str(), 0o600),
            ("ca.crt", &ca.cert, 0o644),
            ("ca.key", &ca.key, 0o600),
            ("sa.key", signing, 0o600),
        ] {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
            io::Write::write_all(&mut options.open(dir.join(name))?, text.as_bytes())?;
        }
        Ok(())
    }
}
