//! The commands that a check prints, run as an operator would, and rights taken away again.

use twinlog_tests::kafka::Cluster;
use twinlog_tests::kafka::cluster::TWIN;

/// The words of each command behind lines of a level that contain `text`, for the user of these tests. The first
/// two, the server, are left out: whoever may set rights has a listener of its own.
pub fn commands(told: &str, level: &str, text: &str) -> Vec<Vec<String>> {
    let lines = told.lines().filter(|line| line.starts_with(level) && line.contains(text));
    let command = |line: &str| {
        let words = line.split_once("kafka-acls.sh ")?.1.split_whitespace().map(|word| match word {
            "User:..." => format!("User:{TWIN}"),
            word => word.trim_matches('\'').to_owned(),
        });
        Some(words.skip(2).collect())
    };
    lines.filter_map(command).collect()
}

/// Rights on one resource, taken from that user.
pub fn revoke(cluster: &Cluster, words: &[&str]) {
    let principal = format!("User:{TWIN}");
    cluster.alter_acls(&[&["--remove", "--allow-principal", &principal], words].concat());
}

pub fn grant(cluster: &Cluster, words: &[&str]) {
    let principal = format!("User:{TWIN}");
    cluster.alter_acls(&[&["--add", "--allow-principal", &principal], words].concat());
}
