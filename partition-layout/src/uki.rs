//! What a unified kernel image says of itself, read from its sections.
//!
//! Source: "Unified Kernel Image" (UAPI.5), and Microsoft's "PE Format".

use crate::boot_choice::SortKey;
use crate::header::Fields;
use crate::root_hash::RootHash;

/// Larger texts are not read: an `os-release` or a command line has a few hundred bytes.
const MAX_TEXT_BYTES: u32 = 64 << 10;
const MAX_SECTIONS: u16 = 96;

/// What systemd-boot and the initrd will read from an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uki {
    /// The rank it asks for in the loader.
    pub sort_key: Option<SortKey>,
    /// The `roothash=` of its command line.
    pub root_hash: Option<RootHash>,
}

impl Uki {
    /// Reads the image whose bytes `read(offset, buffer)` gives; it may fall short.
    ///
    /// Returns `Ok(None)` when systemd-boot would not take it for a boot entry: it is no
    /// PE image, or has no `os-release` with a name in it.
    ///
    /// # Errors
    /// When `read` fails.
    pub(crate) fn read<E>(
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
    ) -> Result<Option<Self>, E> {
        let mut start = [0; 64];
        read(0, &mut start)?;
        let Some(at) = place_of_header(&start) else {
            return Ok(None);
        };
        let mut header = [0; 24];
        read(at, &mut header)?;
        let Some((sections, optional)) = parse_header(&header) else {
            return Ok(None);
        };
        let mut table = vec![0; usize::from(sections) * Section::BYTES];
        let read_bytes = read(
            at.saturating_add(24).saturating_add(u64::from(optional)),
            &mut table,
        )?;
        table.truncate(read_bytes);

        let (mut os_release, mut command_line) = (None, None);
        for section in table
            .chunks_exact(Section::BYTES)
            .filter_map(Section::parse)
        {
            let text = match &section.name {
                b".osrel\0\0" => &mut os_release,
                b".cmdline" => &mut command_line,
                _ => continue,
            };
            // The first of a name counts, as for the loader.
            if text.is_some() {
                continue;
            }
            let mut bytes =
                vec![0; usize::try_from(section.size.min(MAX_TEXT_BYTES)).unwrap_or_default()];
            let length = read(u64::from(section.offset), &mut bytes)?;
            bytes.truncate(length);
            *text = Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        let Some(os_release) = os_release.as_deref().map(OsRelease) else {
            return Ok(None);
        };
        if os_release
            .first_of(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"])
            .is_none()
        {
            return Ok(None);
        }
        Ok(Some(Self {
            sort_key: os_release.sort_key(),
            root_hash: command_line.as_deref().and_then(root_hash_of),
        }))
    }
}

fn place_of_header(start: &[u8; 64]) -> Option<u64> {
    let (before, place) = start.split_last_chunk::<4>()?;
    before
        .starts_with(b"MZ")
        .then_some(u64::from(u32::from_le_bytes(*place)))
}

/// Returns the number of sections, and the length of the optional header before them.
fn parse_header(header: &[u8; 24]) -> Option<(u16, u16)> {
    let mut fields = Fields(header);
    let (signature, _machine) = (fields.take::<4>()?, fields.u16()?);
    let sections = fields.u16()?;
    let _time_and_symbols: [u8; 12] = fields.take()?;
    let optional = fields.u16()?;
    let plausible = &signature == b"PE\0\0" && sections <= MAX_SECTIONS;
    plausible.then_some((sections, optional))
}

struct Section {
    name: [u8; 8],
    size: u32,
    offset: u32,
}

impl Section {
    const BYTES: usize = 40;

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let name = fields.take()?;
        let virtual_size = fields.u32()?;
        let _address = fields.u32()?;
        let raw_size = fields.u32()?;
        let offset = fields.u32()?;
        // What is stored is padded; what is loaded is not.
        let size = virtual_size.min(raw_size);
        Some(Self { name, size, offset })
    }
}

/// Returns the root hash on a kernel command line; the last one counts, as in the kernel's own parsers.
fn root_hash_of(command_line: &str) -> Option<RootHash> {
    let words = command_line.trim_end_matches('\0').split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix("roothash="));
    RootHash::parse(values.next_back()?).ok()
}

/// The text of an `os-release` file, see os-release(5).
struct OsRelease<'t>(&'t str);

impl<'t> OsRelease<'t> {
    /// Returns what systemd-boot makes of it.
    fn sort_key(&self) -> Option<SortKey> {
        let key = self.first_of(&["IMAGE_ID", "ID"])?.to_owned();
        let version = self.first_of(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]);
        let version = version.unwrap_or_default().to_owned();
        Some(SortKey { key, version })
    }

    fn first_of(&self, keys: &[&str]) -> Option<&'t str> {
        keys.iter().find_map(|key| self.value(key))
    }

    fn value(&self, wanted: &str) -> Option<&'t str> {
        let lines = self.0.trim_end_matches('\0').lines().map(str::trim);
        let mut assignments = lines.filter_map(|line| line.split_once('='));
        let (_, value) = assignments.rfind(|(key, _)| *key == wanted)?;
        let unquoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        Some(unquoted.unwrap_or(value)).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(image: &[u8]) -> Option<Uki> {
        let outcome = Uki::read(|offset, buffer: &mut [u8]| {
            let start = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(image.len());
            let length = buffer.len().min(image.len() - start);
            buffer[..length].copy_from_slice(&image[start..start + length]);
            Ok::<_, Infallible>(length)
        });
        outcome.unwrap_or_else(|never| match never {})
    }

    #[test]
    fn the_last_of_several_root_hashes_counts() {
        let (first, last) = ("1".repeat(64), "2".repeat(64));
        let line = format!("quiet roothash={first} panic=10 roothash={last} gpt\n\0");
        assert_eq!(root_hash_of(&line), RootHash::parse(&last).ok());
        assert_eq!(root_hash_of("gpt xroothash=1"), None);
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let release =
            OsRelease("# c\nID=bistable\nVERSION_ID=\"9\"\nIMAGE_VERSION='2.0~rc1'\nIMAGE_ID=\n");
        let key = release.sort_key().expect("it has an ID");
        assert_eq!(
            (key.key.as_str(), key.version.as_str()),
            ("bistable", "2.0~rc1")
        );
    }

    proptest! {
        #[test]
        fn hostile_images_are_read_without_a_panic(mut image in vec(any::<u8>(), 0..400), at in 0_u8..200, sections in 0_u8..5) {
            if let [m, z, .., ] = image.as_mut_slice() {
                (*m, *z) = (b'M', b'Z');
            }
            if image.len() > 260 {
                image[60..64].copy_from_slice(&u32::from(at).to_le_bytes());
                let at = usize::from(at);
                image[at..at + 4].copy_from_slice(b"PE\0\0");
                image[at + 6] = sections;
                image[at + 7] = 0;
            }
            read(&image);
        }
    }
}
