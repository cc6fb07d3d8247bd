//! `bistable-verity`: makes, checks and shows dm-verity hash areas.

mod arguments;
mod device;
mod failure;
mod report;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use partition_layout::RootHash;
use uuid::Uuid;
use verity::{HashArea, Superblock, format, verify};

use crate::arguments::{Action, Arguments, Tree};
use crate::device::Device;
use crate::failure::{Chain, Failure};

/// As many bytes as `veritysetup` draws.
const SALT_SIZE: usize = 32;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when even this cannot be printed.
            drop(writeln!(
                io::stderr(),
                "bistable-verity: {}",
                Chain(&failure)
            ));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(action: &Action) -> Result<(), Failure> {
    match action {
        Action::Format {
            data,
            hash,
            tree,
            uuid,
            root_hash_file,
        } => {
            let root_hash = run_format(data, hash, tree, *uuid)?;
            match root_hash_file {
                Some(path) => write_root_hash(path, &root_hash),
                None => Ok(()),
            }
        }
        Action::Verify {
            data,
            hash,
            root_hash,
            tree,
            root_hash_file,
        } => match (root_hash, root_hash_file) {
            (Some(root_hash), _) => run_verify(data, hash, root_hash, tree),
            (None, Some(path)) => run_verify(data, hash, &read_root_hash(path)?, tree),
            (None, None) => Err(Failure::NoRootHash),
        },
        Action::Dump { hash, hash_offset } => {
            let device = Device::open(hash)?;
            let area = read_area(&device, hash, *hash_offset)?;
            report::print(hash, &area, None).map_err(Failure::Print)
        }
    }
}

fn run_format(
    data: &Path,
    hash: &Path,
    tree: &Tree,
    uuid: Option<Uuid>,
) -> Result<RootHash, Failure> {
    let data_device = Device::open(data)?;
    let params = tree.params(random::<SALT_SIZE>).map_err(Failure::Random)?;
    let bad_params = |source| area_error(data, verity::BadArea::Params(source));
    params.check().map_err(bad_params)?;
    let blocks = data_blocks(&data_device, tree, params.data_block_size)?;
    let area = if tree.no_superblock {
        HashArea::bare(params, blocks, tree.hash_offset)
    } else {
        let uuid = match uuid {
            Some(uuid) => uuid,
            None => random_uuid().map_err(Failure::Random)?,
        };
        let superblock = Superblock::new(params, blocks, uuid).map_err(bad_params)?;
        HashArea::with_superblock(&superblock, tree.hash_offset)
    }
    .map_err(|source| area_error(data, source))?;
    // All that can be refused is, before a hash file is made.
    data_device.must_hold(area.data_len())?;
    data_device.must_not_overlap(hash, tree.hash_offset, &area)?;
    let mut hash_file = device::create(hash)?;
    let root_hash =
        format(data_device.file(), &area, &mut hash_file).map_err(|source| Failure::Format {
            data: data.to_owned(),
            hash: hash.to_owned(),
            source,
        })?;
    hash_file.sync_all().map_err(|source| Failure::Sync {
        path: hash.to_owned(),
        source,
    })?;
    report::print(hash, &area, Some(&root_hash)).map_err(Failure::Print)?;
    Ok(root_hash)
}

/// Writes the bare digits, as `veritysetup` does.
fn write_root_hash(path: &Path, root_hash: &RootHash) -> Result<(), Failure> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(root_hash.to_string().as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| Failure::WriteRootHash {
            path: path.to_owned(),
            source,
        })
}

fn read_root_hash(path: &Path) -> Result<RootHash, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::Open {
        path: path.to_owned(),
        source,
    })?;
    RootHash::parse(text.trim_end()).map_err(|source| Failure::ReadRootHash {
        path: path.to_owned(),
        source,
    })
}

fn run_verify(data: &Path, hash: &Path, root_hash: &RootHash, tree: &Tree) -> Result<(), Failure> {
    let data_device = Device::open(data)?;
    let hash_device = Device::open(hash)?;
    let area = if tree.no_superblock {
        // No salt given is no salt: a random one could never be right.
        let params = tree.params(|| Ok::<_, Failure>(Vec::new()))?;
        let bad_params = |source| area_error(data, verity::BadArea::Params(source));
        params.check().map_err(bad_params)?;
        let blocks = data_blocks(&data_device, tree, params.data_block_size)?;
        HashArea::bare(params, blocks, tree.hash_offset)
            .map_err(|source| area_error(data, source))?
    } else {
        read_area(&hash_device, hash, tree.hash_offset)?
    };
    data_device.must_hold(area.data_len())?;
    verify(data_device.file(), hash_device.file(), &area, root_hash).map_err(|source| {
        Failure::Verify {
            data: data.to_owned(),
            hash: hash.to_owned(),
            source,
        }
    })
}

fn read_area(device: &Device, path: &Path, offset: u64) -> Result<HashArea, Failure> {
    HashArea::read(device.file(), offset).map_err(|source| Failure::Superblock {
        path: path.to_owned(),
        source,
    })
}

/// The blocks asked for, or all whole blocks there are.
fn data_blocks(device: &Device, tree: &Tree, block_size: u32) -> Result<u64, Failure> {
    Ok(match tree.data_blocks {
        Some(blocks) => blocks,
        None => device.size() / u64::from(block_size),
    })
}

fn area_error(path: &Path, source: verity::BadArea) -> Failure {
    Failure::Area {
        path: path.to_owned(),
        source,
    }
}

fn random_uuid() -> io::Result<Uuid> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

fn random<const N: usize>() -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let drawn = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = bytes.get_mut(drawn..).unwrap_or_default();
    }
    Ok(())
}
