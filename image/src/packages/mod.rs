//! Debian packages: which ones, from where, and what they hold. No package is
//! installed and no maintainer script runs.

mod apt;
mod archive;
mod lock;
mod request;

pub use apt::{ResolveError, resolve};
pub use archive::{DownloadError, UnpackError, download, open_data, unpack_to_folder};
pub use lock::{Lock, Package};
pub use request::{Pin, Request, Source};
