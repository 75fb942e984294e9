//! Each promise of the documentation names tests that are there.

use std::{fs, path::Path};

/// A row of a table: a promise, and the files and functions that prove it.
fn rows(page: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    cells
        .filter(|(promise, _)| *promise != "promise")
        .map(|(promise, proofs)| {
            (promise, proofs.split("; ").filter_map(|proof| proof.strip_prefix('`')?.split_once("` ")).collect())
        })
        .collect()
}

#[test]
fn every_promise_has_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let page = fs::read_to_string(root.join("docs/promises.md")).unwrap();
    let rows = rows(&page);
    assert!(rows.len() > 30, "only {} promises were found", rows.len());
    for (promise, proofs) in rows {
        assert!(!proofs.is_empty(), "nothing proves: {promise}");
        for (file, test) in proofs {
            let code = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let at = code.find(&format!("fn {test}()")).unwrap_or_else(|| panic!("{file} has no {test}"));
            let before = code[..at].rsplit("\n}\n").next().unwrap_or_default();
            assert!(before.contains("test"), "{test} of {file} is no test");
        }
    }
    for other in ["README.md", "docs/security.md", "docs/testing.md"] {
        assert!(fs::read_to_string(root.join(other)).unwrap().contains("promises.md"), "{other} does not lead to it");
    }
}

#[test]
fn a_promise_without_a_proof_is_seen() {
    let page = "| promise | proof |\n|---|---|\n| It flies. | `a.rs` b; `c.rs` d |\n| It swims. | of course |\n";
    let expected = [("It flies.", vec![("a.rs", "b"), ("c.rs", "d")]), ("It swims.", vec![])];
    assert_eq!(rows(page), expected);
}
