//! What a Rust file looks like: its header, its sizes, what it must not say.
//!
//! Owns the rules that need syntax. Files are parsed, so that words in strings and comments are not
//! taken for code; the contents of macros are looked at as tokens.

use super::{Finding, SourceFile};
use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A longer file owns more than one thing.
const FILE_LINES_MAX: usize = 700;
/// A longer function cannot be read in one look.
const FUNCTION_LINES_MAX: usize = 70;
/// The packages that can hold no clock, socket, file or thread, because their code cannot name std.
const WITHOUT_STD: &[&str] = &["log-segment", "sync"];
/// The only package whose code may be unsafe.
const UNSAFE_PACKAGE: &str = "io";
/// Lint names that silence more than one thing that somebody looked at.
const BLANKETS: &[&str] = &["warnings", "unused", "dead_code", "unsafe_code", "all", "pedantic", "nursery"];

pub fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings: Vec<Finding> = opens_with_its_purpose(file).into_iter().chain(is_short(file)).collect();
    match syn::parse_file(&file.text) {
        Err(error) => {
            findings.push(file.finding(line_of(error.span()), "Rust files parse", error.to_string()))
        }
        Ok(syntax) => {
            findings.extend(functions_are_short(file, &syntax));
            findings.extend(stays_without_std(file, &syntax));
            findings.extend(sleeps_only_in_polls(file, &syntax));
            findings.extend(says_nothing_forbidden(file, &file.text));
        }
    }
    findings
}

fn line_of(span: Span) -> usize {
    span.start().line
}

fn opens_with_its_purpose(file: &SourceFile) -> Option<Finding> {
    let opens = file.text.starts_with("//! ");
    (!opens)
        .then(|| file.finding(1, "a file opens with its purpose", "the first line is not a `//!` comment"))
}

fn is_short(file: &SourceFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    let what = format!("{lines} lines, more than {FILE_LINES_MAX}: split it by purpose");
    (lines > FILE_LINES_MAX).then(|| file.finding(FILE_LINES_MAX + 1, "files are short", what))
}

/// Walks all functions, methods and trait methods, tests included.
struct Functions<'a> {
    file: &'a SourceFile,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let start = line_of(signature.span());
        let lines = body.span().end().line + 1 - start;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("{} has {lines} lines, more than {FUNCTION_LINES_MAX}", signature.ident);
            self.findings.push(self.file.finding(start, "functions are short", what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

fn functions_are_short(file: &SourceFile, syntax: &syn::File) -> Vec<Finding> {
    let mut functions = Functions { file, findings: Vec::new() };
    functions.visit_file(syntax);
    functions.findings
}

/// The roots of the packages without std forbid unsafe code and name std for their tests only.
fn stays_without_std(file: &SourceFile, syntax: &syn::File) -> Vec<Finding> {
    let rule = "log-segment and sync stay without std";
    let Some(package) = WITHOUT_STD.iter().find(|package| file.path == format!("{package}/src/lib.rs"))
    else {
        return Vec::new();
    };
    let text = |attribute: &syn::Attribute| {
        let syn::Attribute { meta, .. } = attribute;
        quote_free(meta)
    };
    let attributes: Vec<String> = syntax.attrs.iter().map(text).collect();
    let wanted = ["no_std", "forbid(unsafe_code)"];
    let missing = wanted.iter().filter(|wanted| !attributes.iter().any(|found| found == **wanted));
    let mut findings: Vec<Finding> =
        missing.map(|wanted| file.finding(1, rule, format!("{package} needs #![{wanted}]"))).collect();
    for item in &syntax.items {
        if let syn::Item::ExternCrate(names) = item
            && names.ident == "std"
            && !names.attrs.iter().any(|attribute| text(attribute) == "cfg(test)")
        {
            findings.push(file.finding(line_of(names.span()), rule, "std without #[cfg(test)]"));
        }
    }
    findings
}

/// The source text of an attribute without the blanks between its tokens.
fn quote_free(meta: &syn::Meta) -> String {
    let path = |path: &syn::Path| {
        path.segments.iter().map(|one| one.ident.to_string()).collect::<Vec<_>>().join("::")
    };
    match meta {
        syn::Meta::List(list) => {
            format!("{}({})", path(&list.path), list.tokens.to_string().replace(' ', ""))
        }
        other => path(other.path()),
    }
}

/// Finds `thread::sleep` outside functions whose name begins with `poll`.
struct Sleeps<'a> {
    file: &'a SourceFile,
    function: Vec<String>,
    in_tests: bool,
    findings: Vec<Finding>,
}

impl Sleeps<'_> {
    fn within(&mut self, name: String, visit: impl FnOnce(&mut Self)) {
        self.function.push(name);
        visit(self);
        self.function.pop();
    }

    fn found(&mut self, span: Span) {
        let polls = self.function.last().is_some_and(|name| name.starts_with("poll"));
        if self.in_tests && !polls {
            let what = "wait for a condition in a function named poll_...";
            self.findings.push(self.file.finding(line_of(span), "no test sleeps to synchronise", what));
        }
    }
}

impl<'ast> Visit<'ast> for Sleeps<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.within(function.sig.ident.to_string(), |sleeps| visit::visit_item_fn(sleeps, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.within(function.sig.ident.to_string(), |sleeps| visit::visit_impl_item_fn(sleeps, function));
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let outside = self.in_tests;
        self.in_tests |= module.attrs.iter().any(|attribute| quote_free(&attribute.meta) == "cfg(test)");
        visit::visit_item_mod(self, module);
        self.in_tests = outside;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|one| one.ident.to_string()).collect();
        if names.ends_with(&["thread".to_owned(), "sleep".to_owned()]) || names == ["sleep"] {
            self.found(path.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if words(call.tokens.clone()).windows(2).any(|pair| pair == ["thread", "sleep"]) {
            self.found(call.span());
        }
        visit::visit_macro(self, call);
    }
}

/// The identifiers of a token stream, in order, without what stands in strings.
fn words(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(word) => found.push(word.to_string()),
            TokenTree::Group(group) => found.extend(words(group.stream())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

fn sleeps_only_in_polls(file: &SourceFile, syntax: &syn::File) -> Vec<Finding> {
    // The tests of a long file lie beside it, in `<name>_tests.rs`.
    let beside = file.stem() == "tests" || file.stem().ends_with("_tests");
    let in_tests = beside || file.is_in("tests") || file.path.contains("/tests/");
    let mut sleeps = Sleeps { file, function: Vec::new(), in_tests, findings: Vec::new() };
    sleeps.visit_file(syntax);
    sleeps.findings
}

/// Rules on single tokens, the contents of macros included.
fn says_nothing_forbidden(file: &SourceFile, text: &str) -> Vec<Finding> {
    let tokens: TokenStream = text.parse().expect("a file that parses has tokens");
    let mut findings = Vec::new();
    look_at(file, tokens, &mut findings);
    findings
}

fn look_at(file: &SourceFile, tokens: TokenStream, findings: &mut Vec<Finding>) {
    let mut after_hash = false;
    for token in tokens {
        match &token {
            TokenTree::Ident(word) if word == "unsafe" && !file.is_in(UNSAFE_PACKAGE) => {
                let what = format!("only {UNSAFE_PACKAGE} may hold unsafe code");
                findings.push(file.finding(line_of(word.span()), "unsafe code lives in one package", what));
            }
            TokenTree::Group(group) => {
                if after_hash && group.delimiter() == Delimiter::Bracket {
                    findings.extend(attribute_weakens(file, group.span_open(), group.stream()));
                }
                look_at(file, group.stream(), findings);
            }
            _ => {}
        }
        // `#[...]` and `#![...]`.
        after_hash = match &token {
            TokenTree::Punct(mark) => mark.as_char() == '#' || (after_hash && mark.as_char() == '!'),
            _ => false,
        };
    }
}

fn attribute_weakens(file: &SourceFile, span: Span, attribute: TokenStream) -> Option<Finding> {
    let text = attribute.to_string().replace(' ', "");
    if text == "ignore" || text.starts_with("ignore=") || text.contains(",ignore)") {
        return Some(file.finding(line_of(span), "no test is ignored", "fix it or take it out"));
    }
    let inside = text.strip_prefix("allow(").or_else(|| text.strip_prefix("expect("))?;
    let mut names = inside.split([',', ')']).map(|name| name.rsplit("::").next().expect("a last part"));
    let blanket = names.find(|name| BLANKETS.contains(name))?.to_owned();
    let what = format!("{blanket} silences more than one lint that somebody looked at");
    Some(file.finding(line_of(span), "no lint is silenced by the dozen", what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        let file = SourceFile::new(path, &format!("//! A file.\n{text}"));
        check(&file).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let findings = check(&SourceFile::new("io/src/ring.rs", "fn ring() {}\n"));
        assert_eq!(findings[0].rule, "a file opens with its purpose");
        assert!(rules("io/src/ring.rs", "fn ring() {}\n").is_empty());
    }

    #[test]
    fn a_file_that_is_not_rust_is_found() {
        assert_eq!(rules("io/src/ring.rs", "fn ring( {}\n")[0].1, "Rust files parse");
    }

    #[test]
    fn a_long_file_and_a_long_function_are_found() {
        assert_eq!(rules("io/src/a.rs", &"\n".repeat(700)), [(701, "files are short")]);
        let body = |lines: usize| format!("impl A {{\n/// Doc.\nfn f() {{\n{}}}\n}}", "a();\n".repeat(lines));
        assert!(rules("io/src/a.rs", &body(68)).is_empty());
        assert_eq!(rules("io/src/a.rs", &body(69)), [(4, "functions are short")]);
    }

    #[test]
    fn unsafe_code_is_found_everywhere_but_in_its_package() {
        let code = "fn f() { unsafe { g() } }\n";
        assert!(rules("io/src/a.rs", code).is_empty());
        assert_eq!(rules("daemon/src/a.rs", code), [(2, "unsafe code lives in one package")]);
        assert_eq!(rules("daemon/src/a.rs", "make! { unsafe fn f() {} }\n").len(), 1);
        assert!(rules("daemon/src/a.rs", "// unsafe\nconst A: &str = \"unsafe\";\n").is_empty());
    }

    #[test]
    fn a_package_without_std_keeps_its_attributes() {
        let good = "#![no_std]\n#![forbid(unsafe_code)]\n#[cfg(test)]\nextern crate std;\n";
        assert!(rules("sync/src/lib.rs", good).is_empty());
        let rule = "log-segment and sync stay without std";
        assert_eq!(rules("sync/src/lib.rs", "#![no_std]\n"), [(1, rule)]);
        assert_eq!(rules("log-segment/src/lib.rs", &good.replace("#[cfg(test)]\n", "")), [(4, rule)]);
    }

    #[test]
    fn sleeping_is_found_in_tests_outside_polls() {
        let rule = "no test sleeps to synchronise";
        assert_eq!(rules("tests/tests/a.rs", "fn f() { std::thread::sleep(A); }\n"), [(2, rule)]);
        assert!(rules("tests/tests/a.rs", "fn poll_it() { std::thread::sleep(A); }\n").is_empty());
        assert!(rules("daemon/src/a.rs", "fn back_off() { std::thread::sleep(A); }\n").is_empty());
        assert_eq!(rules("sync/src/lane_tests.rs", "fn f() { std::thread::sleep(A); }\n"), [(2, rule)]);
        let module = "#[cfg(test)]\nmod tests { fn f() { std::thread::sleep(A); } }\n";
        assert_eq!(rules("daemon/src/a.rs", module), [(3, rule)]);
        assert_eq!(rules("tests/tests/a.rs", "fn f() { assert!(thread::sleep(A)); }\n"), [(2, rule)]);
    }

    #[test]
    fn an_ignored_test_is_found_in_macros_too() {
        let rule = "no test is ignored";
        assert_eq!(rules("io/src/a.rs", "#[ignore]\nfn f() {}\n"), [(2, rule)]);
        assert_eq!(rules("io/src/a.rs", "#[ignore = \"slow\"]\nfn f() {}\n"), [(2, rule)]);
        assert_eq!(rules("io/src/a.rs", "proptest! {\n#[ignore]\nfn f() {} }\n"), [(3, rule)]);
    }

    #[test]
    fn a_blanket_over_lints_is_found_and_a_single_named_one_is_not() {
        let rule = "no lint is silenced by the dozen";
        assert_eq!(rules("io/src/a.rs", "#![allow(dead_code)]\n"), [(2, rule)]);
        assert_eq!(rules("io/src/a.rs", "#[expect(clippy::all)]\nfn f() {}\n"), [(2, rule)]);
        assert!(rules("io/src/a.rs", "#[allow(clippy::too_many_arguments)]\nfn f() {}\n").is_empty());
    }
}
