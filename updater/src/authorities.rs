//! Who may vouch for a repository's server, beside those of the system.

use reqwest::{Certificate, Client};
use sha2::{Digest, Sha256};

use crate::fetch::chain;

/// Certificates of authorities, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorities {
    pem: String,
}

/// Why a text names no authorities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthorities {
    #[error("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    None,
    #[error("holds a certificate that cannot be used: {0}")]
    Unusable(String),
}

impl Authorities {
    /// Reads certificates in PEM form; an empty text is none.
    pub fn parse(pem: &str) -> Result<Self, BadAuthorities> {
        let authorities = Self {
            pem: pem.to_owned(),
        };
        if pem.trim().is_empty() {
            return Ok(authorities);
        }
        let unusable = |error: reqwest::Error| BadAuthorities::Unusable(chain(&error));
        let certificates = authorities.certificates().map_err(unusable)?;
        if certificates.is_empty() {
            return Err(BadAuthorities::None);
        }
        // Only a client looks into them.
        Client::builder()
            .tls_certs_only(certificates)
            .build()
            .map_err(unusable)?;
        Ok(authorities)
    }

    /// Returns whether only the system's authorities are believed.
    pub(crate) fn is_empty(&self) -> bool {
        self.pem.trim().is_empty()
    }

    /// Returns the text that they were read from.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a name for them: the SHA-256 of their text, in hex.
    pub(crate) fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.pem))
    }

    /// Returns the certificates.
    pub(crate) fn certificates(&self) -> reqwest::Result<Vec<Certificate>> {
        Certificate::from_pem_bundle(self.pem.as_bytes())
    }
}
