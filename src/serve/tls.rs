//! A certificate from files, read again when they change.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("look at {}", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("use {} with {}", cert.display(), key.display())]
    Use { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Certificate chain and key.
#[derive(Debug)]
pub(crate) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    /// What the files were when they were last read, well or not.
    seen: Seen,
    config: Arc<ServerConfig>,
}

/// Files that were replaced or written to differ in one of these: inode, length, time.
type Seen = [(u64, u64, i64, i64); 2];

impl Certificate {
    pub(crate) fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let seen = look(cert, key)?;
        let config = Arc::new(read(cert, key)?);
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), seen, config })
    }

    /// For the next client. What cannot be read leaves the last that could: the other file may be about to follow.
    pub(crate) fn acceptor(&mut self) -> TlsAcceptor {
        if let Ok(seen) = look(&self.cert, &self.key)
            && seen != self.seen
        {
            self.seen = seen;
            match read(&self.cert, &self.key) {
                Ok(config) => {
                    info!(cert = %self.cert.display(), "certificate read again");
                    self.config = Arc::new(config);
                }
                Err(error) => {
                    let error = engine::record::chain(&error);
                    warn!(error, "the certificate in use stays");
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn look(cert: &Path, key: &Path) -> Result<Seen, TlsError> {
    let one = |path: &Path| {
        let failed = |source| TlsError::Look { path: path.to_owned(), source };
        let file = path.metadata().map_err(failed)?;
        Ok((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    Ok([one(cert)?, one(key)?])
}

fn read(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert).map_err(failed(cert))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(failed(cert))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let wrong = |source| TlsError::Use { cert: cert.to_owned(), key: key.to_owned(), source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(wrong)?;
    let mut config =
        config.with_no_client_auth().with_single_cert(chain, private).map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
