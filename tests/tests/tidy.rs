//! The house rules over the whole repository; each rule and its own tests are in `src/tidy/`.

use std::path::Path;
use twinlog_tests::tidy;

#[test]
fn the_tree_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    let findings = tidy::check(root);
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} broken house rules:\n{}", lines.len(), lines.join("\n"));
}
