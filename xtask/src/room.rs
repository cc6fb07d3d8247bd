//! Room on the disk, looked at before hours of work end for the lack of it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;

/// What images and stories take below the build folder, three stories at a time and the
/// largest of them: 7 GB at most were seen.
const IMAGES_AND_STORIES: u64 = 9_000_000_000;

/// Fails if the images and stories cannot have the room that they take.
pub(crate) fn for_images_and_stories(checkout: &Checkout) -> Result<()> {
    let folder = checkout.build();
    let there = folder.ancestors().find(|folder| folder.exists());
    let free = free(there.context("the checkout has gone")?)?;
    ensure!(
        free >= IMAGES_AND_STORIES,
        "images and stories take up to {} below {}, where {} are free",
        gigabytes(IMAGES_AND_STORIES),
        folder.display(),
        gigabytes(free)
    );
    Ok(())
}

fn free(folder: &Path) -> Result<u64> {
    let room = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot ask how much room is in {}", folder.display()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_gigabytes_with_one_digit() {
        assert_eq!(gigabytes(IMAGES_AND_STORIES), "9.0 GB");
        assert_eq!(gigabytes(1_290_000_000), "1.2 GB");
    }
}
