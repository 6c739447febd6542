//! Kerberos credentials: the few calls of the system's library that its safe binding has no words for.
//!
//! Owns caches of tickets in memory, each destroyed with its value, and the proof for the calls into C. It must never
//! name a cache of a user: what is acquired here lies in a cache of our own. Calls may ask the network and block.

use libgssapi::credential::Cred;
use libgssapi::error::{Error, MajorFlags};
use libgssapi::oid::{GSS_MECH_KRB5, GSS_NT_KRB5_PRINCIPAL, Oid};
use libgssapi_sys::{
    _GSS_C_INDEFINITE, GSS_C_INITIATE, GSS_S_COMPLETE, gss_OID_desc, gss_OID_set_desc, gss_acquire_cred_from,
    gss_buffer_desc, gss_cred_usage_t, gss_import_name, gss_key_value_element_desc, gss_key_value_set_desc,
    gss_name_t, gss_release_name,
};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A keytab that nobody ever writes to. Named where none is meant, or the library would look for the one of this
/// system's user and ask the network with it.
const EMPTY_KEYTAB: &CStr = c"MEMORY:twinlog-nothing";

// Of the library under the binding's, which alone can end a cache. Both structures are its own.
#[link(name = "krb5")]
unsafe extern "C" {
    fn krb5_init_context(context: *mut *mut c_void) -> c_int;
    fn krb5_free_context(context: *mut c_void);
    fn krb5_cc_resolve(context: *mut c_void, name: *const c_char, cache: *mut *mut c_void) -> c_int;
    fn krb5_cc_destroy(context: *mut c_void, cache: *mut c_void) -> c_int;
}

/// A cache in this process's memory that nobody else knows. Its tickets and their keys go with it.
#[derive(Debug)]
pub struct TicketCache {
    name: CString,
}

impl TicketCache {
    /// A new name; the cache itself begins with what is put into it.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("MEMORY:twinlog-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name: CString::new(name).expect("letters and digits") }
    }

    pub fn name(&self) -> &str {
        self.name.to_str().expect("letters and digits")
    }
}

impl Default for TicketCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TicketCache {
    fn drop(&mut self) {
        let (mut context, mut cache) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: each structure is used only after the call that makes it returned 0, and ended once. A credential
        // that still refers to the cache is harmless: the library counts the references.
        unsafe {
            if krb5_init_context(&mut context) != 0 {
                return;
            }
            if krb5_cc_resolve(context, self.name.as_ptr(), &mut cache) == 0 {
                krb5_cc_destroy(context, cache);
            }
            krb5_free_context(context);
        }
    }
}

/// A credential whose tickets lie in `cache`: fetched for `principal` with the keys in `keytab` once they are needed,
/// or without a keytab those that are there, and never others.
pub fn acquire_credential(
    principal: Option<&str>,
    keytab: Option<&Path>,
    cache: &TicketCache,
) -> Result<Cred, Error> {
    let name = principal.map(ImportedName::new).transpose()?;
    let keytab = match keytab {
        Some(path) => {
            CString::new([b"FILE:", path.as_os_str().as_bytes()].concat()).map_err(|_| bad_name())?
        }
        None => EMPTY_KEYTAB.to_owned(),
    };
    let element =
        |key: &CStr, value: &CStr| gss_key_value_element_desc { key: key.as_ptr(), value: value.as_ptr() };
    let mut elements = [element(c"ccache", &cache.name), element(c"client_keytab", &keytab)];
    let store = gss_key_value_set_desc { count: elements.len() as u32, elements: elements.as_mut_ptr() };
    let mut mechanism = identifier(&GSS_MECH_KRB5);
    let mut mechanisms = gss_OID_set_desc { count: 1, elements: &mut mechanism };
    let (mut minor, mut credential) = (0, ptr::null_mut());
    // SAFETY: every pointer is to something above that outlives the call, which keeps none of them; texts end with
    // a zero. The last two results are not asked for.
    let major = unsafe {
        gss_acquire_cred_from(
            &mut minor,
            name.as_ref().map_or(ptr::null_mut(), |name| name.0),
            _GSS_C_INDEFINITE,
            &mut mechanisms,
            GSS_C_INITIATE as gss_cred_usage_t,
            &store,
            &mut credential,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    if major != GSS_S_COMPLETE {
        return Err(Error { major: MajorFlags::from_bits_retain(major), minor });
    }
    // SAFETY: the call gave it to us and nobody else has it.
    Ok(unsafe { Cred::from_c(credential) })
}

/// The name of a principal, until it is dropped.
struct ImportedName(gss_name_t);

impl ImportedName {
    fn new(principal: &str) -> Result<Self, Error> {
        let mut text =
            gss_buffer_desc { length: principal.len(), value: principal.as_ptr().cast_mut().cast() };
        let mut kind = identifier(&GSS_NT_KRB5_PRINCIPAL);
        let (mut minor, mut name) = (0, ptr::null_mut());
        // SAFETY: text and kind outlive the call, which copies both and writes to neither.
        let major = unsafe { gss_import_name(&mut minor, &mut text, &mut kind, &mut name) };
        if major == GSS_S_COMPLETE {
            Ok(Self(name))
        } else {
            Err(Error { major: MajorFlags::from_bits_retain(major), minor })
        }
    }
}

impl Drop for ImportedName {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: it is ours, and this is the only place that ends it.
        unsafe { gss_release_name(&mut minor, &mut self.0) };
    }
}

/// The C form of a static identifier. It is only read.
fn identifier(of: &Oid<'static>) -> gss_OID_desc {
    let bytes: &[u8] = of;
    gss_OID_desc { length: bytes.len() as u32, elements: bytes.as_ptr().cast_mut().cast() }
}

/// A path with a zero in it names nothing.
fn bad_name() -> Error {
    Error { major: MajorFlags::GSS_S_BAD_NAME, minor: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_have_names_of_their_own_and_empty_ones_give_no_credential() {
        let (first, second) = (TicketCache::new(), TicketCache::new());
        assert_ne!(first.name(), second.name());
        assert!(acquire_credential(None, None, &first).is_err());
        let nowhere = Path::new("/nowhere/keytab");
        assert!(acquire_credential(Some("twin@NOWHERE.TEST"), Some(nowhere), &second).is_err());
    }

    #[test]
    fn a_principal_or_a_path_that_is_none_is_refused() {
        let cache = TicketCache::new();
        assert!(acquire_credential(Some("a@b@c"), None, &cache).is_err());
        assert!(acquire_credential(None, Some(Path::new("a\0b")), &cache).is_err());
    }
}
