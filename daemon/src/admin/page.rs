//! Lists in pieces, as Kafka's REST interface has them: `page_size`, `page_token`, and `metadata.next`.
//!
//! A page goes on behind the last name of the page before, not at a place in the list: what is created or deleted
//! between two pages makes no other one come twice or be left out.

use super::answer::Metadata;
use super::body::Query;

/// Entries of one page, and of a list whose page size nobody says. A mirror topic of 100 partitions is told in
/// some 50 KiB: raised, one question holds that much more memory, and keeps the control core busy writing it.
pub const PAGE_SIZE_MAX: usize = 1_000;
/// Two names and what stands between them.
const TOKEN_BYTES_MAX: usize = 512;

/// Which piece of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    size: usize,
    behind: Option<String>,
}

impl Page {
    pub fn of(query: Query) -> Self {
        Self { size: query.page_size.unwrap_or(PAGE_SIZE_MAX), behind: query.page_token }
    }

    /// Leaves the entries of this page, in the order of their names.
    pub fn cut<T>(&self, path: &str, data: &mut Vec<T>, name: impl Fn(&T) -> String) -> Metadata {
        data.sort_by_cached_key(&name);
        if let Some(behind) = &self.behind {
            data.retain(|entry| name(entry) > *behind);
        }
        let is_whole = data.len() <= self.size;
        data.truncate(self.size);
        let next = data
            .last()
            .filter(|_| !is_whole)
            .map(|last| format!("{path}?page_size={}&page_token={}", self.size, name(last)));
        Metadata { path: path.to_owned(), next }
    }
}

/// Names of links and topics, ids of clusters, the colon between two of them, and groups with their escapes.
pub fn is_page_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte);
    // An escape is a whole one.
    let mut escapes = text.split('%').skip(1);
    let whole = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) && escapes.all(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str, names: &[&str]) -> (Vec<String>, Option<String>) {
        let mut data: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let page = Page::of(Query::parse(Some(query)).unwrap());
        let metadata = page.cut("/l", &mut data, String::clone);
        (data, metadata.next)
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let names = ["d", "a", "c", "b", "e"];
        let (first, next) = page("page_size=2", &names);
        assert_eq!(
            (first, next.as_deref()),
            (vec!["a".into(), "b".into()], Some("/l?page_size=2&page_token=b"))
        );
        let (second, next) = page("page_size=2&page_token=b", &names);
        assert_eq!((second, next.is_some()), (vec!["c".to_owned(), "d".to_owned()], true));
        assert_eq!(page("page_size=2&page_token=d", &names), (vec!["e".to_owned()], None));
        assert_eq!(page("page_size=5", &names).1, None);
        // The last one of the page before was deleted meanwhile.
        assert_eq!(page("page_token=bb", &["a", "c"]), (vec!["c".to_owned()], None));
        let many: Vec<String> = (0..=PAGE_SIZE_MAX).map(|index| format!("{index:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(page("", &many).0.len(), PAGE_SIZE_MAX);
    }
}
