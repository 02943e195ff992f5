//! What fuzzers found worth keeping, once more; and that the targets get as far as they are meant to.

use std::fs;
use std::path::Path;

use muster_fuzz::{TARGETS, target};

/// The inputs of one target, by name.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.expect("a file of the corpus").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a file that can be read")))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_input_of_the_corpus_passes() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 5, "the corpus of {name} is nearly empty");
        let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
        assert!(bytes <= 20_000, "the corpus of {name} has {bytes} bytes");
        for (file, input) in inputs {
            // Seen when the test fails.
            println!("{file}");
            target(&input);
        }
    }
}

#[test]
fn a_corpus_belongs_to_a_target() {
    for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).expect("the corpus") {
        let name = folder.expect("a folder").file_name();
        assert!(target(&name.to_string_lossy()).is_some(), "{name:?} is no target");
    }
}

/// Some thousand random inputs for the decoders; for the operations chance is the fuzzer's.
#[test]
fn a_little_chance() {
    let mut state = 1_u64;
    let mut random = || {
        // Knuth's MMIX; the upper bits are good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for (name, target) in TARGETS.iter().filter(|(name, _)| !["discovery", "keyagree", "centralised"].contains(name)) {
        for _ in 0..2000 {
            let length = random() % 200;
            let input: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            println!("{name} {input:?}");
            target(&input);
        }
    }
}
