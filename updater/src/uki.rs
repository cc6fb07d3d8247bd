//! The kernel image on the EFI system partition: written under a name that
//! boots nothing, and read back.

use release::Release;
use sha2::{Digest as _, Sha256};

use crate::ports::{BootControl, Fetch, Slots};
use crate::stage::{Bench, CHUNK, digest, len};
use crate::stage_error::StageError;

/// Kept free beside the kernel image: folder entries and the allocation table
/// of the small images that others may put there.
const SLACK: u64 = 64 * 1024;

/// Fails if the kernel image of `release` will not fit. Asked once the spare
/// slot's own image has gone, and before hundreds of megabytes are fetched.
pub fn check_room(device: &impl BootControl, release: &Release) -> Result<(), StageError> {
    let doing = "ask the EFI system partition for its room";
    let has = device
        .room()
        .map_err(|source| StageError::Esp { doing, source })?;
    let needed = release.blobs.uki.size.saturating_add(SLACK);
    if has < needed {
        Err(StageError::EspFull { needed, has })
    } else {
        Ok(())
    }
}

impl<D: Slots + BootControl, N: Fetch> Bench<'_, D, N> {
    /// Writes the kernel image of `release`. On return it is on the medium,
    /// and has been read back from there.
    pub fn write_kernel(&mut self, release: &Release) -> Result<(), StageError> {
        const WHAT: &str = "kernel image";
        let (device, meter) = (self.device, self.meter);
        let blob = &release.blobs.uki;
        let failed = |doing| move |source| StageError::Esp { doing, source };
        device
            .begin_temporary(blob.size)
            .map_err(failed("start the kernel image"))?;
        let mut hasher = Sha256::new();
        self.pour(WHAT, blob, &mut |offset, bytes| {
            hasher.update(bytes);
            device
                .write_temporary(offset, bytes)
                .map_err(failed("write the kernel image"))?;
            meter.add(len(bytes));
            Ok(())
        })?;
        let expected = blob.sha256;
        let found = digest(hasher);
        if found != expected {
            return Err(StageError::BlobDigest {
                what: WHAT,
                found,
                expected,
            });
        }
        device
            .flush_temporary()
            .map_err(failed("bring the kernel image to the medium"))?;
        self.read_kernel_back(release)
    }

    fn read_kernel_back(&self, release: &Release) -> Result<(), StageError> {
        let (size, expected) = (release.blobs.uki.size, release.blobs.uki.sha256);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < size {
            self.stop.checkpoint().map_err(|_| StageError::Stopped)?;
            let rest = usize::try_from(size - offset).unwrap_or(CHUNK).min(CHUNK);
            let bytes = buffer
                .get_mut(..rest)
                .expect("no chunk is larger than the buffer");
            let doing = "read the kernel image back";
            self.device
                .read_temporary(offset, bytes)
                .map_err(|source| StageError::Esp { doing, source })?;
            hasher.update(&*bytes);
            self.meter.add(len(bytes));
            offset = offset.saturating_add(len(bytes));
        }
        let found = digest(hasher);
        if found == expected {
            Ok(())
        } else {
            Err(StageError::KernelReadBack { found, expected })
        }
    }
}
