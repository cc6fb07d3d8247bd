//! The published trees of cryptsetup and Android Verified Boot.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use verity::{BadSuperblock, HashArea, HashType, Params, Superblock, format, verify};

#[derive(Deserialize)]
struct Vectors {
    known_answer: Vec<KnownAnswer>,
}

#[derive(Deserialize)]
struct KnownAnswer {
    id: String,
    data_pattern: String,
    data_size: u64,
    data_block_size: u32,
    hash_block_size: u32,
    hash_type: u32,
    algorithm: String,
    salt: String,
    root_hash: String,
    #[serde(rename = "hash_area_sha256_no_superblock")]
    area_sha256: Option<String>,
    #[serde(rename = "hash_area_size")]
    area_size: Option<u64>,
}

fn known_answers() -> Vec<KnownAnswer> {
    let vectors: Vectors =
        serde_json::from_str(include_str!("vectors/verity.json")).expect("the vectors are JSON");
    assert_eq!(vectors.known_answer.len(), 12);
    vectors.known_answer
}

impl KnownAnswer {
    fn data(&self) -> Vec<u8> {
        let bytes: Vec<u8> = match self.data_pattern.as_str() {
            "zeros" => (0..self.data_size).map(|_| 0).collect(),
            "inc8" => (0..self.data_size).map(|n| n.to_le_bytes()[0]).collect(),
            _ => Vec::new(), // caught by the length
        };
        assert_eq!(bytes.len() as u64, self.data_size, "{}", self.data_pattern);
        bytes
    }

    fn area(&self) -> HashArea {
        let params = Params {
            data_block_size: self.data_block_size,
            hash_block_size: self.hash_block_size,
            salt: hex::decode(&self.salt).expect("salts are hex"),
            hash_type: HashType::from_number(self.hash_type).expect("hash types are 0 or 1"),
        };
        let blocks = self.data_size / u64::from(self.data_block_size);
        HashArea::bare(params, blocks, 0).expect("the vectors are possible trees")
    }
}

#[test]
fn every_sha256_answer_is_rebuilt_to_the_byte_and_verifies() {
    let answers: Vec<_> = known_answers()
        .into_iter()
        .filter(|answer| answer.algorithm == "sha256")
        .collect();
    assert_eq!(answers.len(), 6);
    for answer in answers {
        let (data, area, mut hash) = (answer.data(), answer.area(), Vec::new());
        let root_hash = format(&data, &area, &mut hash).expect("memory does not fail");
        assert_eq!(root_hash.to_string(), answer.root_hash, "{}", answer.id);
        assert_eq!(Some(hash.len() as u64), answer.area_size, "{}", answer.id);
        assert_eq!(area.end(), hash.len() as u64, "{}", answer.id);
        let area_sha256 = hex::encode(Sha256::digest(&hash));
        assert_eq!(Some(area_sha256), answer.area_sha256, "{}", answer.id);
        verify(&data, &hash, &area, &root_hash).expect("what was built is good");
    }
}

/// Bistable makes and trusts sha256 alone, so the trees of another algorithm are
/// not rebuilt: they are refused, by the name that a superblock gives.
#[test]
fn every_answer_of_another_algorithm_is_refused_by_name() {
    let answers: Vec<_> = known_answers()
        .into_iter()
        .filter(|answer| answer.algorithm != "sha256")
        .collect();
    assert_eq!(answers.len(), 6);
    for answer in answers {
        let area = answer.area();
        let superblock = Superblock::new(area.params().clone(), area.data_blocks(), Uuid::nil())
            .expect("all but the algorithm is supported");
        let mut bytes = superblock.to_bytes();
        bytes[32..64].fill(0);
        bytes[32..32 + answer.algorithm.len()].copy_from_slice(answer.algorithm.as_bytes());
        assert_eq!(
            Superblock::parse(&bytes),
            Err(BadSuperblock::Algorithm(answer.algorithm)),
            "{}",
            answer.id
        );
    }
}
