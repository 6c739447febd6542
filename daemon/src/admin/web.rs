//! The page at `/`: its files, which are part of the program.
//!
//! Files only: whatever the page shows it asks for like every other client, with the token of whoever looks at it.
//! They hold no secret and are told to everybody, for who logs in by a page must be able to load it first. They must
//! never name another host, nor hold script or style within markup: the policy of every answer forbids both.

use hyper::header::HeaderValue;

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WebFile {
    pub path: &'static str,
    kind: &'static str,
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const fn file(path: &'static str, kind: &'static str, text: &'static str) -> WebFile {
    WebFile { path, kind, text }
}

static FILES: [WebFile; 14] = [
    file("/", HTML, include_str!("web/index.html")),
    file("/web/api.js", SCRIPT, include_str!("web/api.js")),
    file("/web/elements.js", SCRIPT, include_str!("web/elements.js")),
    file("/web/figures.js", SCRIPT, include_str!("web/figures.js")),
    file("/web/groups.js", SCRIPT, include_str!("web/groups.js")),
    file("/web/history.js", SCRIPT, include_str!("web/history.js")),
    file("/web/icon.svg", PICTURE, include_str!("web/icon.svg")),
    file("/web/main.js", SCRIPT, include_str!("web/main.js")),
    file("/web/metrics.js", SCRIPT, include_str!("web/metrics.js")),
    file("/web/orders.js", SCRIPT, include_str!("web/orders.js")),
    file("/web/overview.js", SCRIPT, include_str!("web/overview.js")),
    file("/web/page.css", STYLE, include_str!("web/page.css")),
    file("/web/partitions.js", SCRIPT, include_str!("web/partitions.js")),
    file("/web/topics.js", SCRIPT, include_str!("web/topics.js")),
];

impl WebFile {
    /// The file of a path, spelled exactly so.
    pub fn at(path: &str) -> Option<&'static Self> {
        FILES.iter().find(|file| file.path == path)
    }

    /// Names below `/web/`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().filter_map(|file| file.path.strip_prefix("/web/"))
    }

    pub fn kind(&self) -> HeaderValue {
        HeaderValue::from_static(self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_that_a_file_names_is_served() {
        let mut named = BTreeSet::from(["/".to_owned()]);
        for file in &FILES {
            for (before, after) in [("'./", '\''), ("\"/web/", '"')] {
                let words = file.text.split(before).skip(1).filter_map(|rest| rest.split(after).next());
                named.extend(words.map(|word| format!("/web/{word}")));
            }
        }
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(named, served);
        let on_disk = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/web");
        assert_eq!(std::fs::read_dir(on_disk).unwrap().count(), FILES.len());
    }

    #[test]
    fn nothing_in_them_is_forbidden_by_the_policy_or_makes_markup_of_words() {
        for file in &FILES {
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http:", "https:", "//cdn", "ws://", "wss://", "data:", "@import", "url("] {
                assert!(!text.contains(foreign), "{} has {foreign}", file.path);
            }
            for risky in
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "localStorage"]
            {
                assert!(!text.contains(risky), "{} has {risky}", file.path);
            }
        }
        let page = WebFile::at("/").unwrap().text;
        for inline in ["style=", "<style", "onclick", "onload", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
        // A field without a name is sent by no form: the token comes into no address, even without the script.
        for tag in ["<input", "<select", "<button"] {
            let fields = page.split(tag).skip(1).filter_map(|rest| rest.split('>').next());
            assert!(fields.into_iter().all(|field| !field.contains(" name=")), "{tag}");
        }
    }

    #[test]
    fn a_path_is_spelled_exactly() {
        assert!(WebFile::at("/web/main.js").is_some());
        for other in ["", "//", "/web/", "/web", "/web/main.JS", "/web/../main.js", "/index.html"] {
            assert_eq!(WebFile::at(other), None, "{other}");
        }
    }
}
