//! A container image of one program, made here: what a node is for.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

/// The image's name.
pub const IMAGE: &str = "docker.io/library/story:1";

/// Writes an OCI image that runs `program` with `arguments`, as an archive padded to whole sectors.
///
/// The padding makes the file a disk that a node can import from as it stands.
///
/// # Errors
///
/// Fails when a file cannot be read or written.
pub fn write(folder: &Path, program: &Path, arguments: &[&str]) -> Result<PathBuf> {
    let mut layer = Builder::new(Vec::new());
    add(
        &mut layer,
        "probe",
        0o755,
        &fs::read(program).with_context(|| format!("cannot read {}", program.display()))?,
    )?;
    let layer = layer.into_inner()?;
    let command: Vec<&str> = [&["/probe"], arguments].concat();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": command },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(
            "annotations".into(),
            json!({ "io.containerd.image.name": IMAGE }),
        );
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] })
        .to_string()
        .into_bytes();

    let mut archive = Builder::new(Vec::new());
    add(
        &mut archive,
        "oci-layout",
        0o644,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    add(&mut archive, "index.json", 0o644, &index)?;
    for blob in [&manifest, &config, &layer] {
        add(
            &mut archive,
            &format!("blobs/sha256/{}", hex::encode(Sha256::digest(blob))),
            0o644,
            blob,
        )?;
    }
    let path = folder.join("container.oci");
    let mut file =
        fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(&archive.into_inner()?)?;
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(1 << 20))?;
    Ok(path)
}

fn add(archive: &mut Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive
        .append_data(&mut header, name, content)
        .with_context(|| format!("cannot pack {name}"))
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read;

    use super::*;

    #[test]
    fn every_digest_in_the_image_leads_to_its_blob() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        fs::write(&program, "a program").expect("written");
        let path = write(folder.path(), &program, &["hello"]).expect("an image");
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(fs::File::open(path).expect("the image"));
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            files.insert(name, content);
        }
        let follow = |descriptor: &Value| {
            let digest = descriptor["digest"]
                .as_str()
                .expect("a digest")
                .replace(':', "/");
            let content = &files[&format!("blobs/{digest}")];
            assert_eq!(descriptor["size"], json!(content.len()));
            serde_json::from_slice::<Value>(content).unwrap_or_default()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("the index");
        let manifest = follow(&index["manifests"][0]);
        let config = follow(&manifest["config"]);
        follow(&manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
    }
}
