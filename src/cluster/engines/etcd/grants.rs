//! Rights on the locks of a prefix, as commands of `etcdctl`.

use super::EtcdBuilder;
use crate::cluster::engines::grants::{Grants, GrantsError, bad_role, check_role, shell};
use crate::cluster::engines::options::invalid;
use crate::cluster::engines::prefix::{Prefix, SEALED_MARK};

impl EtcdBuilder {
    /// The commands of `etcdctl` that give `role`, a role and a user of this name, rights on the locks of `prefix`:
    /// see [`grants`](crate::cluster::engines::grants()), and [the page](super#rights-per-prefix).
    ///
    /// # Errors
    ///
    /// [`GrantsError`]; [`Role`](GrantsError::Role) also for `root`, whose rights cannot be limited.
    pub fn grants(&self, prefix: &str, role: &str) -> Result<Grants, GrantsError> {
        let prefix = Prefix::new(prefix).map_err(|why| GrantsError::Prefix { why })?;
        check_role(role, 200)?;
        if role == "root" {
            return Err(bad_role(role, "it has all rights in etcd, and cannot be limited"));
        }
        if role.contains(':') {
            return Err(bad_role(role, "what follows a colon is the password for etcdctl"));
        }
        let of_all = &*self.prefix;
        if of_all.contains(char::is_control) {
            return Err(invalid("its prefix has a control character").into());
        }
        let (name, checked) = (shell(role), shell(of_all));
        let granted = shell(&format!("{of_all}{prefix}"));
        let mark = match prefix.is_sealed() {
            true => {
                let mark = shell(&format!("{of_all}{SEALED_MARK}"));
                format!("etcdctl role grant-permission -- {name} read {mark} </dev/null\n")
            }
            false => String::new(),
        };
        let commands = format!(
            "set -e\n\
             etcdctl role get -- {name} >/dev/null 2>&1 </dev/null || etcdctl role add -- {name} </dev/null\n\
             etcdctl role grant-permission -- {name} readwrite {checked} </dev/null\n\
             etcdctl role grant-permission --prefix=true -- {name} readwrite {granted} </dev/null\n\
             {mark}\
             etcdctl user grant-role -- {name} {name} </dev/null\n"
        );
        let notes = vec![
            "etcdctl finds the servers and a user with all rights in ETCDCTL_ENDPOINTS and ETCDCTL_USER, which has its password, too: root:PASSWORD.".to_owned(),
            format!(
                "The user has to exist: etcdctl user add -- {name} asks for its password. What the role had before it keeps."
            ),
            "Nothing is limited before etcdctl auth enable, for which there has to be a user root.".to_owned(),
        ];
        Ok(Grants { client: "sh", commands, notes })
    }
}
