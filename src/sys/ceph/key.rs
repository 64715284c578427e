//! The user's key, which the kernel needs for itself when it maps an image.

use std::fmt;
use std::fs;
use std::io;

use nix::errno::Errno;

use super::{Cluster, Failed, Pool};

/// A key in base64. It shows itself to nobody who does not ask for it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The key itself, as the kernel takes it; `None` if it is not in base64.
    pub(crate) fn decoded(&self) -> Option<Vec<u8>> {
        let digits = self.0.trim_end_matches('=');
        let (mut out, mut bits, mut held) = (Vec::with_capacity(digits.len()), 0_u32, 0);
        for byte in digits.bytes() {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
        }
        Some(out)
    }

    /// What a file or an option holds, white space around it aside.
    fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Pool {
    /// The user's key, from where librados takes it: the options `key` and `keyfile`, or the first keyring that there is. `None`: there is
    /// none, and as we are connected the cluster asks for none.
    pub(crate) fn key(&self) -> Result<Option<Secret>, Failed> {
        self.0.cluster.key()
    }
}

impl Cluster {
    fn key(&self) -> Result<Option<Secret>, Failed> {
        if let Some(key) = Secret::new(&self.option("key")?) {
            return Ok(Some(key));
        }
        let file = self.option("keyfile")?;
        if !file.is_empty() {
            return Ok(read("keyfile", &file)?.and_then(|text| Secret::new(&text)));
        }
        let user = format!("client.{}", self.user);
        for path in paths(&self.option("keyring")?) {
            if let Some(keyring) = read("keyring", path)? {
                return Ok(find(&keyring, &user));
            }
        }
        Ok(None)
    }
}

/// A list of paths as Ceph writes it.
fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.split([',', ';', ' ', '\t']).filter(|path| !path.is_empty())
}

fn read(call: &'static str, path: &str) -> Result<Option<String>, Failed> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failed { call, errno: error.raw_os_error().map_or(Errno::EILSEQ, Errno::from_raw) }),
    }
}

/// The key of a user in a keyring: sections in brackets, and `key = …` in them. The last one counts.
fn find(keyring: &str, user: &str) -> Option<Secret> {
    let mut ours = false;
    let mut key = None;
    for line in keyring.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[') {
            ours = name.split(']').next().is_some_and(|name| name.trim() == user);
        } else if ours
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "key"
        {
            key = Secret::new(value.trim().trim_matches(['"', '\'']));
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYRING: &str = "\
[client.admin2]
	key = AQBther==
# [client.admin]
[client.admin]
	key = \"AQAtut9ZdMbNJBAAHz6yBAWyJyz2yYRyeMWDag==\" ; the key
	caps mon = \"allow *\"
	caps key = \"no\"
[ client.other ]
key=AQBother==
[client.none]
	auid = 0
";

    #[test]
    fn a_keyring_gives_the_key_of_the_user_alone() {
        let of = |user: &str| find(KEYRING, user).map(|key| key.0);
        assert_eq!(of("client.admin").as_deref(), Some("AQAtut9ZdMbNJBAAHz6yBAWyJyz2yYRyeMWDag=="));
        assert_eq!(of("client.admin2").as_deref(), Some("AQBther=="));
        assert_eq!(of("client.other").as_deref(), Some("AQBother=="));
        assert_eq!(of("client.none"), None);
        assert_eq!(of("client.nobody"), None);
        assert_eq!(find("key = AQAlone==\n", "client.admin"), None);
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = find(KEYRING, "client.admin").unwrap();
        assert_eq!(format!("{key:?} {:?}", Some(&key)), "Secret Some(Secret)");
    }

    #[test]
    fn lists_of_keyrings_are_split_as_ceph_does() {
        let list = "/etc/ceph/ceph.client.admin.keyring,/etc/ceph/ceph.keyring, /etc/ceph/keyring;/a,";
        let all: Vec<_> = paths(list).collect();
        assert_eq!(all, ["/etc/ceph/ceph.client.admin.keyring", "/etc/ceph/ceph.keyring", "/etc/ceph/keyring", "/a"]);
    }
}
