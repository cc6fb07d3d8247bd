//! What `format` and `dump` print: `veritysetup`'s lines, for scripts that read them.

use std::io::{self, Write as _};
use std::path::Path;

use partition_layout::RootHash;
use verity::HashArea;

pub(crate) fn print(hash: &Path, area: &HashArea, root_hash: Option<&RootHash>) -> io::Result<()> {
    let params = area.params();
    let superblock = area.superblock();
    let uuid = superblock.map_or_else(String::new, |(superblock, _)| superblock.uuid().to_string());
    let salt = match params.salt.as_slice() {
        [] => "-".to_owned(),
        salt => hex::encode(salt),
    };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "VERITY header information for {}\n\
         UUID:            \t{uuid}\n\
         Hash type:       \t{}\n\
         Data blocks:     \t{}\n\
         Data block size: \t{}\n\
         Hash blocks:     \t{}\n\
         Hash block size: \t{}\n\
         Hash algorithm:  \tsha256\n\
         Salt:            \t{salt}",
        hash.display(),
        params.hash_type.number(),
        area.data_blocks(),
        params.data_block_size,
        area.hash_blocks(),
        params.hash_block_size,
    )?;
    if let Some(root_hash) = root_hash {
        writeln!(out, "Root hash:      \t{root_hash}")?;
    }
    writeln!(out, "Hash device size: \t{} [bytes]", area.end())?;
    out.flush()
}
