//! PostgreSQL (feature `postgres`): registers in one table.
//!
//! ```no_run
//! use lockword::cluster::{Node, engines::postgres::Postgres};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Postgres::connect(&"postgres://app:secret@db:5432/app?sslmode=verify-full".parse()?).await?;
//! engine.create_schema().await?; // or run the SQL of `schema_sql` as a migration
//! let node = Node::builder(engine).build()?;
//! node.lock("jobs/nightly")?.acquire().await?.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! Over a single primary it is linearizable, and nothing that was acknowledged is lost when the server
//! is killed. A version is the larger of the last one plus one and the server's clock in microseconds,
//! computed while the row is locked; so versions grow although the clock steps back.
//!
//! **A failover can lose writes.** With asynchronous replicas (the default of PostgreSQL) the new
//! primary may lack the last writes that the old one has acknowledged, and an old primary that can
//! still be reached goes on. Then two nodes may hold a lock at a time, and the order of fencing tokens
//! is not guaranteed across that event; the same is true of a restored backup. A failover loses nothing
//! if `synchronous_standby_names` is set, `synchronous_commit` is `on` or `remote_apply`, and the old
//! primary is fenced off. etcd needs no such settings.
//!
//! So the engine declares [`Consistency::Lossy`] if there is a replica when it connects
//! (`pg_stat_replication` has a row), and these two settings are not both as above. A backup that is
//! being taken and a logical subscriber look like a replica. A replica that is disconnected, or that
//! reads archived files, is not seen. A replica that comes later changes neither what was declared nor
//! how the engine works. The option `replicas` overrides this:
//!
//! - `none`: a failover never leads to a replica;
//! - `async`: it may lead to any;
//! - `sync`: it leads only to replicas that have every acknowledged write. A server without the two
//!   settings is then refused, by the first connection and by each later one
//!   ([`TransportError::Unavailable`], as long as that is so): the server that takes over needs them
//!   too. A change of the settings during a connection is not noticed.
//!
//! `synchronous_commit = off` is set to `on` for the engine's own connections. Where that is not
//! possible (`pooled=true`), and with `fsync = off`, [`Consistency::Lossy`] is declared too. If a later
//! connection leads to a server that can lose acknowledged writes in this way, and the first one did
//! not, it is refused ([`TransportError::Unsupported`]).
//!
//! The statement that writes also notifies the node that is to be woken (`NOTIFY`), and only if a node
//! waits, because PostgreSQL commits transactions that notify one at a time. Any role that may connect
//! can send such a notification. So it has only a hash of the key, and the node reads the register after
//! each ([`Notices::Hints`](crate::cluster::Notices::Hints)): a forged one costs that read, and does no
//! other harm.
//!
//! **A write never fails for its notification.** Where the server refuses that, the write is made without
//! it: because the user may not execute `pg_notify(text, text)`, because the queue of notifications is full
//! (54000), or for any other reason. For five seconds nothing is notified then, and the next write tries it
//! again. Meanwhile nodes poll instead of waiting for a watch. Their observers are told why by one
//! [`request_finished`](crate::cluster::Observer::request_finished) of
//! [`Watch`](crate::cluster::RemoteOperation::Watch). A client that only listens looks each second whether
//! its user may notify, and whether the queue has room. A client that connects while one of the two is not so
//! declares [`Wakeups::Poll`] for as long as it lives. The right belongs to all users of the table or to
//! none: a node whose user has it is not woken when one without it releases the lock, and looks by itself only
//! each third of its lease; others that wait may come before it. The same holds for the nodes of other clients
//! in those five seconds. A write that waits at its commit for others that notify, for longer than a fifth of
//! `timeout_ms`, is made without its notification, too.
//!
//! # Requirements
//!
//! PostgreSQL 12 or newer; the primary. The table of [`Postgres::schema_sql`], and these permissions:
//!
//! ```sql
//! GRANT SELECT, INSERT, UPDATE ON public.lockword TO app;
//! GRANT DELETE ON public.lockword TO app; -- for housekeeping() and delete() only
//! ```
//!
//! [`Postgres::create_schema`] needs the right to create a table in the schema, unless the table
//! exists. Each [`Postgres`] and its clones have two connections: one for requests, and one for
//! notifications, which is opened when a node first waits for a lock. Any
//! `default_transaction_isolation` will do.
//!
//! Only [`Postgres::housekeeping`] deletes registers, namely those that have been idle for more than a
//! day. Call it daily where names of locks are not used again. The row without a name is the *floor*:
//! its version is at least that of all deleted registers. Never delete it, nor [those of prefixes](#rights-per-prefix).
//!
//! The housekeeping has a connection of its own, and reads the table page by page, by the primary key.
//! An index on `idle_since` would make it shorter and each release slower: a row cannot be updated in
//! place (HOT) if an indexed column changes.
//!
//! **Do not lock its rows in your own transactions.** All requests share a connection, on which the server answers one
//! after the other. A write to a row that another transaction has locked is refused after a twentieth
//! of `timeout_ms` (a quarter of a second by default, never less than 50 ms) as
//! [`TransportError::Unavailable`], and the node tries again later. Requests for other locks wait
//! meanwhile, and again for each such attempt and each such row. A transaction that locks the floor
//! keeps registers from being created in the same way. (Nodes that contend for a register lock its row
//! for as long as a commit takes. If that is long, because a synchronous replica is far away, make
//! `timeout_ms` a hundred times as long as a commit.)
//!
//! # An unlogged table
//!
//! With `unlogged=true` ([`PostgresBuilder::unlogged`]) the table is one that PostgreSQL does not write to its log
//! (`CREATE UNLOGGED TABLE`). A write waits for no disk and for no replica. **A crash of the server empties the
//! table**, an immediate shutdown too, and so does a failover, since no replica has its rows; a clean restart loses
//! nothing. So the engine declares [`Consistency::Lossy`]. That is what advisory locks do, which end with the
//! server, but with leases, fencing tokens and a queue.
//!
//! - Who held a lock loses it, and is told so at the next renewal or look
//!   ([`LossReason::TakenOver`](crate::cluster::LossReason)). Until then, for up to a lease, another node may have
//!   it already. A resource that checks the [fencing token](crate::cluster::FencingToken) refuses the first one as soon
//!   as the second one has used it.
//! - Versions begin with the time, so tokens go on above those that were lost: **as long as the clock of the
//!   server after the crash is not behind that before it**. If it is, because it was set back, or because that of the
//!   new primary is slow, tokens may repeat until it has caught up. A node that has seen the larger ones gets no
//!   lock with a smaller one. (While the table is there, versions grow although the clock steps back.)
//! - The first that creates a register afterwards also creates the row without a name, which takes the right
//!   to insert it. [Floors of prefixes](#rights-per-prefix) have to be created again by who may do that; until then
//!   roles with rights on a prefix are refused ([`Denied`](TransportError::Denied)).
//!
//! All clients of a table have to say the same. A table of the other kind is refused: by
//! [`connect`](PostgresBuilder::connect) as [`Unsuitable`](ConnectError::Unsuitable), by each later connection, and by
//! [`create_schema`](Postgres::create_schema), as [`Unsupported`](TransportError::Unsupported). To change it, while
//! nobody uses it: `ALTER TABLE public.lockword SET UNLOGGED`, or `SET LOGGED`. Who has connected before
//! goes on until its connection ends, which it does in every crash.
//!
//! # Rights per prefix
//!
//! A role can have rights on the locks of a prefix of keys, here `jobs/`, and on no others, by row-level
//! security. The SQL, one transaction for the owner of the table, is printed by
//! `lockword grants --on postgres:///shop --prefix jobs/ --role jobs`, and is that of
//! [`grants`](crate::cluster::engines::grants()). It makes the floor of the prefix, and gives these rights:
//!
//! ```
//! use lockword::cluster::engines::grants;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sql = r#"
//! GRANT SELECT, INSERT, UPDATE (version, value, idle_since) ON TABLE public.lockword TO "jobs";
//! CREATE POLICY "read jobs" ON public.lockword FOR SELECT TO "jobs"
//!     USING (starts_with(key, 'jobs/'));
//! -- A crash empties a table that is not logged, and leaves the policies: without its floor the role writes nothing.
//! CREATE POLICY "change jobs" ON public.lockword FOR UPDATE TO "jobs"
//!     USING (starts_with(key, 'jobs/')
//!         AND EXISTS (SELECT FROM public.lockword AS floor WHERE floor.key = 'jobs/*'));
//! CREATE POLICY "create jobs" ON public.lockword FOR INSERT TO "jobs"
//!     WITH CHECK (starts_with(key, 'jobs/') AND right(key, 1) <> '*'
//!         AND EXISTS (SELECT FROM public.lockword AS floor WHERE floor.key = 'jobs/*'));
//! "#;
//! assert!(grants("postgres:///shop?host=db", "jobs/", "jobs")?.commands().contains(sql));
//! # Ok(())
//! # }
//! ```
//!
//! - After a crash, which empties an [unlogged table](#an-unlogged-table), run the SQL again.
//! - Before it enables row security, each other role that has rights on the table or on columns of it gets a policy for
//!   all rows (`"all app"`), as have `pg_read_all_data` (to read them) and `pg_write_all_data`. A role that gets rights later needs one:
//!   `CREATE POLICY "all app" ON public.lockword TO app USING (true)`. Rights of `PUBLIC` on the table are refused.
//! - A role that has more by another way is refused (42501), with the reason, and nothing is changed: a superuser,
//!   `BYPASSRLS`, `CREATEROLE`, the owner of the table, its schema or the database, a member of a role with more rights;
//!   and one that may create in the schema of the table or in `public`, where others might call what it has made: before
//!   PostgreSQL 15 that is everybody, until `REVOKE CREATE ON SCHEMA public FROM PUBLIC`.
//! - A second prefix for a role takes the place of the first, and what was granted to the role on the table by hand is
//!   gone: also the right to delete that is given below.
//! - It locks the table, and waits for that for a twentieth of `timeout_ms` at most: run it again if that was in vain.
//!
//! *What such a role can do:* acquire, wait for, renew, hand over, release, look at, list and break the locks below the
//! prefix, and by hand write what it likes into their registers and their floor. That harms these locks only: also if
//! others use or delete what it has written.
//!
//! *What it cannot do:* see, write or delete another row, raise or lower another floor, rename a row, make a floor, delete.
//! To create a register elsewhere is [`Denied`](TransportError::Denied); one that it may not see looks free until it tries
//! to take it. To trust it with [`housekeeping`](Postgres::housekeeping) and [`delete`](Postgres::delete), too
//! (PostgreSQL lets who has `DELETE` lock the whole table, so that the others wait; better, another role does it for all):
//!
//! ```sql
//! GRANT DELETE ON public.lockword TO jobs;
//! CREATE POLICY "delete jobs" ON public.lockword FOR DELETE TO jobs
//!   USING (starts_with(key, 'jobs/') AND right(key, 1) <> '*');
//! ```
//!
//! *What no grant prevents:* Who may connect may notify, and listen: such a role may hear the hashes of all keys of which
//! changes are announced, and by a forged notification makes any node look at what it waits for. It can keep
//! clients that use the prefix waiting, by locking its rows (and requests of the same clients for other locks, too: see
//! [the requirements](#requirements)). By a transaction that it leaves open it can stop the housekeeping, which
//! locks several floors at a time, and keep the SQL above from locking the table; by one that listens and stays open it lets the queue of
//! notifications fill, so that [nothing is notified](#guarantees). `idle_in_transaction_session_timeout`, set for the role,
//! ends those. It can load the server, and fill its disk.
//!
//! Why a floor (the stored number above which a new register begins, so that fencing tokens never decrease): whoever may
//! create registers has to lock the floor, and so may write it, for example the last
//! version. Then none of the registers that use it can be created any more. So those of such a prefix have one of
//! their own, the row `jobs/*`, whose name no key can have. Of several prefixes of a key that have a floor the
//! longest counts, for all clients. So a role with rights on the prefix and one with all rights take the version of a new
//! register from the same floor, and raise that one when they delete: no version repeats or goes down, whoever of them
//! has made, written and deleted the one before. Therefore:
//!
//! - The role must not have the right to change the column `key`, nor to insert or delete a row that ends with a star: it
//!   could make others use another floor.
//! - A policy that shows a role registers must show it all floors of their prefixes, or the longest at least, and
//!   never the row without a name alone: two clients that use two floors for one key may repeat a version.
//! - A floor can be made while clients are at work ([`Postgres::create_floor`], and the SQL of
//!   [`Postgres::floor_sql`], do only that), and begins with the one above it. All that write wait meanwhile: for as long as
//!   the statements that are running take, up to a twentieth of `timeout_ms`, after which it is refused
//!   ([`Unavailable`](TransportError::Unavailable)).
//! - A key for which the role sees no floor cannot be created or deleted ([`Denied`](TransportError::Denied)).
//!
//! # Under load
//!
//! At most 16 writes of a client are in flight by themselves. While there are more, the others wait at the client,
//! and all that wait, up to 500, are one statement and one commit: the more wait, the more one commit does. Each
//! is answered by itself: a row that somebody has locked is skipped, and then written by itself, and so is each of
//! them if the server refuses the statement because of one. A write that nobody waits for any more is not
//! sent. One that has waited for a fifth of `timeout_ms` is refused as
//! [`TransportError::Unavailable`], which says that PostgreSQL is overloaded; nothing was written, and the node tries
//! again while its lease lasts.
//!
//! So the number of commits a second does not limit how many locks a node holds. Where a commit takes
//! two milliseconds (`commit_delay = 2000`, two cores), a node with 20,000 locks and leases of ten seconds
//! renewed each of them every three seconds, 6,000 a second; with a statement for each it was 230 a second.
//!
//! # Dead row versions
//!
//! A write makes a new version of its row, and the old one is cleared away by the next reader or writer of
//! its page: unless a transaction may still see it. An acquisition and its release are two writes, a renewal
//! and a place in the queue one each. A read, a try of a lock that is held, and a write that meets another
//! version write nothing: no row version, no lock of the row, no transaction id. (A write that waits for the
//! row while another one changes it does lock it.)
//!
//! While *any* transaction of the server is open that may see old rows, no version that has died since it
//! began can be cleared away, in all tables of its database; and every access to a register reads through those of
//! its row. Beside a snapshot that stays open a register of which 25,000 acquisitions are made becomes about
//! four times as slow, until that ends. What keeps old versions, and where it shows:
//!
//! ```sql
//! -- Dead versions of the table: some thousands are usual, more and more are not.
//! SELECT n_live_tup, n_dead_tup, n_tup_upd, n_tup_hot_upd, last_autovacuum
//!   FROM pg_stat_user_tables WHERE relid = 'public.lockword'::regclass;
//! -- Open transactions: reports, dumps, sessions that are 'idle in transaction'.
//! SELECT pid, state, age(backend_xmin), xact_start, query FROM pg_stat_activity
//!   WHERE backend_xmin IS NOT NULL ORDER BY age(backend_xmin) DESC;
//! -- Replication slots, and replicas with hot_standby_feedback.
//! SELECT slot_name, active, age(xmin), age(catalog_xmin) FROM pg_replication_slots;
//! SELECT application_name, age(backend_xmin) FROM pg_stat_replication;
//! -- Prepared transactions that nobody ends.
//! SELECT gid, prepared, age(transaction) FROM pg_prepared_xacts;
//! ```
//!
//! What helps: `idle_in_transaction_session_timeout`; long reports on a replica without
//! `hot_standby_feedback`, or in another cluster of databases; deleting slots and prepared transactions that nobody uses.
//! The table is made with `fillfactor = 50`, so that a new version finds room in its page (HOT, and no entry
//! in an index), and with an autovacuum after 1,000 dead versions whatever its size. Where many registers
//! change all the time, `autovacuum_naptime` (one minute) is the limit: lower it, or raise
//! `autovacuum_max_workers`. What has piled up beside a snapshot is gone after the next vacuum; the file stays as
//! large as it was, which does no harm.
//!
//! # The URL
//!
//! `postgres://user:password@host:port/database?option=value`, or `postgresql://`; everything but the
//! host is optional, the port is 5432 by default. Special characters of the user's name and the
//! password are percent-encoded. The default user is the user of the system that runs this process, and
//! the default database has the name of the user. The host may be the folder of a Unix socket:
//! `postgres://user@%2Fvar%2Frun%2Fpostgresql/app`, or, as for libpq,
//! `postgres:///app?host=/var/run/postgresql&user=user`.
//!
//! Several servers are separated by commas, `postgres://user@a:5432,b:5432/app` (with [`connect`](crate::cluster::connect);
//! a [`Url`] has the others as options: `?host=b:5432`). Each new connection tries them in order, and all
//! addresses of a name, until one is a primary. One that is silent, starting, or a replica costs its part of
//! `connect_timeout_ms`: half of it with two, a third with three. One that refuses the password or the database, or
//! whose certificate is not trusted, ends the attempt.
//!
//! [`PostgresBuilder`] has a setter for each option:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `sslmode` | `verify-full`: TLS, and the server's certificate must be trusted and have its name; `require` means the same here; `disable`: no TLS; this also permits the password in clear text, as `plaintext=allow` does | no TLS |
//! | `password_file` | the file that has the password, which is not in the address then | none |
//! | `plaintext` | `allow`: the password may be used without TLS on other machines | only over the loopback interface |
//! | `ca` (or `sslrootcert`) | with TLS: a PEM file of the authorities to trust | those of the system |
//! | `cert`, `key` (or `sslcert`, `sslkey`) | with TLS: PEM files of the client's certificate and its key | no client certificate is presented |
//! | `server_name` | with TLS: the name that the server's certificate must have | the host |
//! | `connect_timeout_ms` (or `connect_timeout`, in seconds) | how long connecting may take, in milliseconds | 5000 |
//! | `timeout_ms` | how long a request may take, in milliseconds | 5000 |
//! | `table` | `name` or `schema.name`, of `a-z`, `0-9` and `_`, at most 46 bytes together | `public.lockword` |
//! | `create_schema` | `true`: creates the table if it does not exist | `false` |
//! | `unlogged` | `true`: the table is not written to the log, and a crash empties it: [see above](#an-unlogged-table) | `false` |
//! | `replicas` | `none`, `sync` or `async`: see above | derived when it connects |
//! | `pooled` | `true`: there is a transaction pooler in between | `false` |
//! | `host`, `port` | a further server; the port of those that name none | none, 5432 |
//! | `user` | the user, where the URL has no place for it | see above |
//! | `target_session_attrs` | `read-write` or `primary`, which is what is always looked for | `read-write` |
//! | `application_name` | the name of the connections, for the server | `lockword` |
//!
//! The names in parentheses are those of libpq; an option is set by one of its names only.
//!
//! The files are read again for each connection, and [`PostgresBuilder::credentials_by`] takes a function instead:
//! see [credentials that change](crate::cluster::connect#credentials-that-change). Connections that are open stay when the password of
//! their role changes; `pg_terminate_backend`, a restart and a failover end them, and the next one logs in with what the
//! file has then. To keep its locks, a node must find the new password within what is left
//! of their leases.
//!
//! A password in an address that leads to another machine needs `sslmode=verify-full` or `plaintext=allow`.
//!
//! # Poolers
//!
//! Through a pooler such as PgBouncer in transaction mode, set `pooled=true`: then no statement is
//! prepared by name, nothing is set for longer than a transaction, and there is no `LISTEN`. Waiting
//! nodes poll ([`Wakeups::Poll`]). Their writes do notify the nodes that listen without the pooler. If
//! the option is missing, the errors say so.
//!
//! # Errors
//!
//! A request that the server refuses was certainly not applied: because of a full disk, too little
//! memory, a lock that another transaction keeps, or because the server is a replica
//! ([`TransportError::Unavailable`]); because of missing permissions
//! ([`Denied`](TransportError::Denied)); because of a missing table
//! ([`Unsupported`](TransportError::Unsupported)). A write whose connection was lost, or that was not
//! answered in time, or whose response cannot be read, is
//! [`Indeterminate`](TransportError::Indeterminate). A register whose version is no number of a version is
//! [`Corrupt`](TransportError::Corrupt), or indeterminate if a write has made it so. A statement that lost against
//! another transaction (40001, 40P01) is repeated while half of the time is left, and nothing else is
//! repeated. A read, a write and a deletion end within `timeout_ms`, with connecting and repeating. A
//! new watch is in force, or has failed, within eight times the longer of the two timeouts.
//!
//! After a server was lost, the next request connects again. (If little of a request's time was left
//! when the server fell silent, this happens up to one `timeout_ms` later.) The watches have ended, and
//! the next one listens again. The two connections lead to one server and are replaced together: after a
//! failover an old primary may go on with one of them, but nothing is notified there.
//!
//! # By hand
//!
//! ```sql
//! SELECT key, version, idle_since, convert_from(value, 'UTF8') AS value
//!   FROM public.lockword WHERE key = 'jobs/nightly';
//! SELECT * FROM pg_stat_activity WHERE application_name = 'lockword';
//! LISTEN "public.lockword"; -- for all nodes; "public.lockword:NODE" for one node
//! ```

use crate::cluster::engines::connect::ConnectionRuntime;
use crate::cluster::engines::prefix::Prefix;
use crate::cluster::process::{OfProcess, watch_of_process};
use crate::cluster::{
    Capabilities, ConnectError, Consistency, Exchange, Key, NodeId, Transport, TransportError,
    Version, Versioned, Wakeups, Watch, Write, async_trait,
};
use backlog::{Backlog, Waiting};
use builder::PostgresConfig;
use futures_util::{StreamExt, stream};
use listener::NotificationListener;
use notify::NotifyState;
use session::{Param, Reconnecting, Session, StatementKind};
use sql::{PostgresFailure, StatementFailure};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use url::Url;

mod backlog;
mod builder;
mod floors;
mod grants;
mod listener;
mod notify;
mod session;
mod sql;

pub use builder::{PostgresBuilder, Replicas};

/// Registers in a table of PostgreSQL: see the [module's documentation](self). A clone shares the
/// connections, which live on a thread of this crate's own, or on the
/// [runtime that was given](PostgresBuilder::runtime). In a forked child every request fails
/// ([`TransportError::Unavailable`]), and dropping it does nothing.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<OfProcess<PostgresInner>>,
}

struct PostgresInner {
    config: Arc<PostgresConfig>,
    runtime: ConnectionRuntime,
    requests: Reconnecting<Session>,
    changes: Reconnecting<NotificationListener>,
    notify: NotifyState,
    /// For writes that are in flight by themselves.
    single: Semaphore,
    backlog: Backlog,
    capabilities: Capabilities,
}

impl Postgres {
    /// A builder for a client of this server: `host` or `host:port`, where the port is 5432 by
    /// default, or the folder of a Unix socket, which begins with a slash. An IPv6 address is in
    /// brackets. Behind a folder that has a colon in its name the port is required.
    pub fn builder(server: impl Into<String>) -> PostgresBuilder {
        PostgresBuilder::new(server.into())
    }

    /// Connects to the server at this [URL](self#the-url): the same as [`PostgresBuilder::from_url`]
    /// and then [`PostgresBuilder::connect`].
    ///
    /// [`PostgresBuilder::connect`] says how long it may take, and what dropping the future leaves
    /// behind.
    ///
    /// # Errors
    ///
    /// Those of the two methods.
    pub async fn connect(url: &Url) -> Result<Self, ConnectError> {
        PostgresBuilder::from_url(url)?.connect().await
    }

    async fn open(
        config: PostgresConfig,
        runtime: ConnectionRuntime,
    ) -> Result<Self, ConnectError> {
        let config = Arc::new(config);
        let requests = Reconnecting::new();
        let connect = || Session::connect(config.clone());
        let failed = |failure: PostgresFailure| failure.connect;
        let session = requests.get(runtime.handle(), connect).await.map_err(failed)?;
        let mut capabilities = Capabilities::new("postgres");
        let is_heard = !config.pooled && session.facts.can_notify;
        capabilities.wakeups = if is_heard { Wakeups::PushToOne } else { Wakeups::Poll };
        capabilities.wake_within = listener::WAKE_WITHIN;
        if session.facts.is_lossy
            || config.unlogged
            || session.replicas_may_lag().await.map_err(failed)?
        {
            capabilities.consistency = Consistency::Lossy;
        }
        let changes = Reconnecting::new();
        let inner = PostgresInner {
            config,
            runtime,
            requests,
            changes,
            notify: NotifyState::default(),
            single: Semaphore::new(backlog::SINGLE),
            backlog: Backlog::default(),
            capabilities,
        };
        Ok(Self { inner: Arc::new(OfProcess::new(inner)) })
    }

    /// The SQL that creates the table, for a migration, with the name of the table from the options.
    #[must_use]
    pub fn schema_sql(&self) -> String {
        sql::schema(&self.inner.config.table, self.inner.config.unlogged)
    }

    /// Creates the table if it does not exist. If it exists, the permission to write to it suffices. It
    /// may be called again at any time, and by several clients at once.
    ///
    /// It takes at most twice the timeout, and four times the connect timeout if it has to connect. If
    /// the future is dropped, the table may or may not be created, as a whole.
    ///
    /// # Errors
    ///
    /// [`TransportError`]: [`Denied`](TransportError::Denied) without the permission;
    /// [`Unsupported`](TransportError::Unsupported) if the table exists, and the option
    /// [`unlogged`](PostgresBuilder::unlogged) says that it is of the other kind;
    /// [`Indeterminate`](TransportError::Indeterminate) if the connection was lost or no response came
    /// in time: the table may or may not be created, so call it again.
    pub async fn create_schema(&self) -> Result<(), TransportError> {
        let inner = self.inner.here()?;
        let PostgresConfig { table, unlogged, limits, .. } = &*inner.config;
        let session = inner.session(&inner.requests).await?;
        let exists = async || {
            let asked = session.query_bools(&sql::table_exists(table)).await;
            let seen = asked.map_err(|failure| failure.call)?.unwrap_or_else(|| vec![false; 2]);
            match seen[0] && seen[1] != *unlogged {
                true => Err(TransportError::unsupported(sql::other_kind(table, seen[1]))),
                false => Ok(seen[0]),
            }
        };
        if exists().await? {
            return batch(&session, &floors::shared(table)).await;
        }
        batch(&session, &sql::create_schema(table, *unlogged, *limits)).await?;
        // Another client may have been first, with the other kind.
        exists().await.map(drop)
    }

    /// The SQL that creates the [floor of `prefix`](self#rights-per-prefix) unless it exists, for a migration, with
    /// the name of the table from the options. It is one statement.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unsupported`] if `prefix` is none: it ends with a slash, and has the characters of a
    /// [`Key`].
    pub fn floor_sql(&self, prefix: &str) -> Result<String, TransportError> {
        let PostgresConfig { table, limits, .. } = &*self.inner.config;
        let prefix = Prefix::new(prefix).map_err(TransportError::unsupported)?;
        Ok(floors::create(table, &prefix, *limits))
    }

    /// Creates the [floor of `prefix`](self#rights-per-prefix), such as `jobs/`, unless it exists. It may be
    /// called while other clients use the table, and again at any time.
    ///
    /// It locks the table, and waits for that for a twentieth of the timeout at most; all that write wait meanwhile.
    /// It takes at most the timeout, and four times the connect timeout if it has to connect. If the future is
    /// dropped, the floor may or may not be created. Nothing deletes a floor.
    ///
    /// # Errors
    ///
    /// [`TransportError`]: [`Denied`](TransportError::Denied) to a user without rights on all rows;
    /// [`Unsupported`](TransportError::Unsupported) if `prefix` is none, or there is no table;
    /// [`Unavailable`](TransportError::Unavailable) if another transaction keeps the table or a row of it: the
    /// floor was not created, so call it again; [`Indeterminate`](TransportError::Indeterminate) if the
    /// connection was lost or no response came in time: it may or may not be created, so call it again.
    pub async fn create_floor(&self, prefix: &str) -> Result<(), TransportError> {
        let inner = self.inner.here()?;
        let mut text = self.floor_sql(prefix)?;
        if inner.config.unlogged {
            // A crash may have emptied the table.
            text = format!("{}; {text}", floors::shared(&inner.config.table));
        }
        batch(&*inner.session(&inner.requests).await?, &text).await
    }

    /// Deletes the registers that have been idle for longer than a day, and returns how many it has
    /// deleted. Call it from time to time if names of locks are not used again: nothing else deletes a
    /// register. It opens a connection of its own. Dropping the future is safe at any moment: what was
    /// deleted remains deleted, and the page that is being worked on may or may not be.
    ///
    /// # Errors
    ///
    /// [`TransportError`]. What was deleted before it remains deleted. After
    /// [`Indeterminate`](TransportError::Indeterminate) one more page may or may not be deleted.
    pub async fn housekeeping(&self) -> Result<u64, TransportError> {
        let inner = self.inner.here()?;
        let (own, mut all, mut after) = (Reconnecting::new(), 0, String::new());
        loop {
            let row =
                inner.ask(&own, StatementKind::DeleteIdle, &[&after], true, inner.end()).await;
            let row = first(row)?;
            let row = row.ok_or_else(|| TransportError::indeterminate("no count"))?;
            all += count(&row).map_err(after_a_write)?;
            if !column(&row, 2).map_err(after_a_write)? {
                return Err(inner.no_floor().await);
            }
            match column(&row, 1).map_err(after_a_write)? {
                Some(last) => after = last,
                None => return Ok(all),
            }
        }
    }

    /// Deletes the register of `key`, whether it is idle or not, and returns whether there was one. The
    /// next register of this name gets a larger version, which a `DELETE` by hand does not ensure. It is
    /// for tests and operators. It ends within the timeout.
    ///
    /// If the future is dropped, the register may or may not be deleted; later calls work as before.
    ///
    /// # Errors
    ///
    /// [`TransportError`]. After [`Indeterminate`](TransportError::Indeterminate) the register may or
    /// may not be deleted; after any other error it is not.
    pub async fn delete(&self, key: &Key) -> Result<bool, TransportError> {
        let inner = self.inner.here()?;
        let (link, end) = (&inner.requests, inner.end());
        let mut is_restored = false;
        loop {
            let row = inner.ask(link, StatementKind::Delete, &[&key.as_str()], true, end).await;
            let row = first(row)?.ok_or_else(|| TransportError::indeterminate("no count"))?;
            if column(&row, 1).map_err(after_a_write)? {
                return Ok(count(&row).map_err(after_a_write)? > 0);
            }
            inner.restore_floor(&mut is_restored).await?;
        }
    }
}

impl PostgresInner {
    async fn session(&self, link: &Reconnecting<Session>) -> Result<Arc<Session>, TransportError> {
        let connect = || Session::connect(self.config.clone());
        let on = self.runtime.handle();
        let session = link.get(on, connect).await.map_err(|failure| failure.call)?;
        if session.facts.is_lossy && self.capabilities.consistency == Consistency::Linearizable {
            let why = "fsync or synchronous_commit is off now, and was on before";
            return Err(TransportError::unsupported(why));
        }
        Ok(session)
    }

    /// Creates the row without a name after a crash that has emptied the table: once, then `is_restored`. Versions
    /// begin with the time, so they go on above those that were lost.
    ///
    /// # Errors
    ///
    /// [`TransportError`], for which no floor is there: that of the table has not gone by a crash, or this user may
    /// not create it.
    async fn restore_floor(&self, is_restored: &mut bool) -> Result<(), TransportError> {
        if !self.config.unlogged || std::mem::replace(is_restored, true) {
            return Err(self.no_floor().await);
        }
        let session = self.session(&self.requests).await?;
        match batch(&session, &floors::shared(&self.config.table)).await {
            Err(TransportError::Denied(_)) => Err(self.no_floor().await),
            // The write that it was for has not been made.
            Err(TransportError::Indeterminate(why)) => Err(TransportError::Unavailable(why)),
            done => done,
        }
    }

    /// The error of a statement that found no floor for a key.
    async fn no_floor(&self) -> TransportError {
        let asked = format!("SELECT row_security_active('{}')", self.config.table);
        let asked = match self.session(&self.requests).await {
            Ok(session) => session.query_bools(&asked).await.map_err(|failure| failure.call),
            Err(error) => return error,
        };
        match asked {
            Ok(Some(active)) if active[0] => TransportError::denied(
                "the row security of the table shows this user no floor for the key: it has no right to it, or \
                 the owner has to call create_floor() with the prefix that it has, or to run what `lockword grants` \
                 prints",
            ),
            Ok(_) => TransportError::unsupported(
                "the row without a name is missing in the table: call create_schema()",
            ),
            Err(error) => error,
        }
    }

    /// When a request that begins now has to end.
    fn end(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// Whether it is too late to try again in a request that ends at `end`: a write that runs out of
    /// time has an unknown outcome, a write that failed has not.
    fn is_late(&self, end: Instant) -> bool {
        Instant::now() + self.config.timeout / 2 >= end
    }

    /// Runs a statement, and runs it again where that is safe.
    async fn ask(
        &self,
        link: &Reconnecting<Session>,
        which: StatementKind,
        params: &[Param<'_>],
        write: bool,
        end: Instant,
    ) -> Result<Vec<Row>, StatementFailure> {
        let mut tries = 0;
        loop {
            let session = match timeout_at(end, self.session(link)).await {
                Ok(session) => session?,
                Err(_) => return Err(TransportError::unavailable("no connection in time").into()),
            };
            let failure = match session.query(which, params, write, end).await {
                Ok(rows) => return Ok(rows),
                Err(failure) => failure,
            };
            if failure.is_broken {
                session.kill();
            }
            if !failure.can_retry || self.is_late(end) {
                return Err(failure);
            }
            sleep(session::backoff(tries)).await;
            tries += 1;
        }
    }

    /// Runs a statement that writes. `notice`: the same statement with a notice, which has two more
    /// parameters: the channel and the hint.
    ///
    /// Where the server refuses the statement with the notice and takes the one without, it was the notice
    /// that was refused, whatever the reason.
    async fn write(
        &self,
        which: StatementKind,
        params: &[Param<'_>],
        notice: Option<(StatementKind, [Param<'_>; 2])>,
        end: Instant,
    ) -> Result<Written, TransportError> {
        let (link, mut refusal) = (&self.requests, None);
        if let Some((which, notice)) = notice.filter(|_| self.notify.may_try()) {
            let (params, began) = ([params, &notice].concat(), Instant::now());
            match self.ask(link, which, &params, true, end).await {
                Ok(rows) => {
                    let written = Written::read(rows.into_iter().next())?;
                    if matches!(written, Written::Version(_)) {
                        self.notify.works();
                    }
                    return Ok(written);
                }
                Err(failure) => match &failure.refused {
                    // A row that another transaction keeps; or too late.
                    Some(code)
                        if *code == SqlState::LOCK_NOT_AVAILABLE
                            && began.elapsed() < self.config.limits.notice =>
                    {
                        return Err(failure.error);
                    }
                    Some(_) if !self.is_late(end) => refusal = Some(failure),
                    _ => return Err(failure.error),
                },
            }
        }
        let written = Written::read(first(self.ask(link, which, params, true, end).await)?)?;
        if let (Some(StatementFailure { error, refused, .. }), Written::Version(_)) = (refusal, &written)
            // Many that notify had the turn before it: the next one may be lucky.
            && refused != Some(SqlState::LOCK_NOT_AVAILABLE)
        {
            self.notify.refused(error);
            self.changes.forget();
        }
        Ok(written)
    }
}

/// What a statement that writes has done.
enum Written {
    /// It has written the register, which has this version now.
    Version(Version),
    /// It has not: the register was this.
    Nothing(Versioned),
    /// It has not, because of a row that has come meanwhile.
    Overtaken,
    /// It has not: the row on which it depends is missing.
    NoRow,
}

impl Written {
    /// # Errors
    ///
    /// [`TransportError::Indeterminate`] for a row that makes no sense if the statement may have written.
    fn read(row: Option<Row>) -> Result<Self, TransportError> {
        let Some(row) = row else { return Ok(Self::NoRow) };
        if let Some(written) = column(&row, 0).map_err(after_a_write)? {
            return Ok(Self::Version(version(written).map_err(after_a_write)?));
        }
        match column::<Option<i64>>(&row, 1)? {
            Some(_) => Ok(Self::Nothing(register(&row, 1)?)),
            None => Ok(Self::Overtaken),
        }
    }
}

#[async_trait]
impl Transport for Postgres {
    async fn load(&self, key: &Key) -> Result<Option<Versioned>, TransportError> {
        let inner = self.inner.here()?;
        let (link, end) = (&inner.requests, inner.end());
        let row = inner.ask(link, StatementKind::Load, &[&key.as_str()], false, end).await;
        first(row)?.map(|row| register(&row, 0)).transpose()
    }

    async fn compare_exchange(
        &self,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let inner = self.inner.here()?;
        let PostgresInner { config, capabilities, .. } = inner;
        let end = inner.end();
        let Write { value, wake, idle } = new;
        if value.len() > capabilities.largest_value {
            return Err(TransportError::unsupported("a value of more than 64 KiB"));
        }
        let (channel, hint) = (listener::channel(&config.table, wake), listener::hint(key));
        let single = inner.single.try_acquire().ok().filter(|_| inner.backlog.is_idle());
        let _single = match single {
            Some(single) => single,
            None => {
                let (answer, answered) = oneshot::channel();
                let waiting = Waiting {
                    key: key.as_str().to_owned(),
                    expected,
                    value: value.clone(),
                    idle,
                    notice: channel.clone().map(|channel| (channel, hint.clone())),
                    end,
                    since: Instant::now(),
                    answer,
                };
                match backlog::write_together(&self.inner, inner, waiting, answered).await {
                    Some(Ok(Written::Version(version))) => return Ok(Exchange::Swapped(version)),
                    Some(Ok(Written::Nothing(seen))) => return Ok(Exchange::Mismatch(Some(seen))),
                    Some(Ok(Written::NoRow | Written::Overtaken)) => {
                        return Ok(Exchange::Mismatch(None));
                    }
                    Some(Err(error)) => return Err(error),
                    None => {}
                }
                match timeout_at(end, inner.single.acquire()).await {
                    Ok(Ok(single)) => single,
                    _ => return Err(TransportError::unavailable("PostgreSQL is overloaded")),
                }
            }
        };
        let (key, value) = (key.as_str(), &*value);
        let notice = |which| {
            let channel = channel.as_ref()?;
            Some((which, [channel as Param<'_>, &hint as Param<'_>]))
        };
        let mut is_restored = false;
        loop {
            let written = match expected {
                None => {
                    let notice = notice(StatementKind::CreateAndNotify);
                    let params: [Param<'_>; 3] = [&key, &value, &idle];
                    inner.write(StatementKind::Create, &params, notice, end).await?
                }
                Some(expected) => {
                    let number = i64::try_from(expected.get()).expect("below 2^52");
                    let notice = notice(StatementKind::UpdateAndNotify);
                    let params: [Param<'_>; 4] = [&key, &number, &value, &idle];
                    inner.write(StatementKind::Update, &params, notice, end).await?
                }
            };
            match written {
                Written::Version(version) => return Ok(Exchange::Swapped(version)),
                Written::NoRow if expected.is_none() => {
                    inner.restore_floor(&mut is_restored).await?;
                }
                Written::NoRow => return Ok(Exchange::Mismatch(None)),
                // It was changed while the statement waited for it.
                Written::Nothing(seen) if Some(seen.version) == expected => {}
                Written::Overtaken => {}
                Written::Nothing(seen) => return Ok(Exchange::Mismatch(Some(seen))),
            }
            if inner.is_late(end) {
                return Err(TransportError::unavailable("it changes all the time"));
            }
        }
    }

    async fn watch(&self, key: &Key, node: NodeId) -> Result<Watch, TransportError> {
        let inner = self.inner.here()?;
        let PostgresInner { config, runtime, requests, changes, .. } = inner;
        if config.pooled {
            // No notification arrives through a pooler.
            return Ok(stream::empty().boxed());
        }
        let session = inner.session(requests).await?;
        let connect = || NotificationListener::connect(config.clone(), session.clone());
        if !inner.notify.may_try() {
            return inner.notify.no_watch(node);
        }
        let listener = match changes.get(runtime.handle(), connect).await {
            Ok(listener) => listener,
            Err(failure) if failure.is_of_notices => {
                inner.notify.refused(failure.call);
                return inner.notify.no_watch(node);
            }
            Err(failure) => return Err(failure.call),
        };
        inner.notify.works();
        listener.watch(key, node).await.map(watch_of_process)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Key>, TransportError> {
        let inner = self.inner.here()?;
        let (mut keys, mut after) = (vec![], String::new());
        loop {
            let params: [Param<'_>; 2] = [&prefix, &after];
            let (link, end) = (&inner.requests, inner.end());
            let row = inner.ask(link, StatementKind::List, &params, false, end).await;
            let row = first(row)?.ok_or_else(|| TransportError::corrupt("no list"))?;
            let page: Vec<String> = column(&row, 0)?;
            let Some(last) = page.last() else { return Ok(keys) };
            after.clone_from(last);
            // What has another name was written by something else.
            keys.extend(page.iter().filter_map(|name| Key::new(name).ok()));
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities.clone()
    }
}

/// The error of a row that makes no sense, when it is the response to a write: the write may have been
/// applied.
fn after_a_write(error: TransportError) -> TransportError {
    match error {
        TransportError::Corrupt(why) => TransportError::Indeterminate(why),
        other => other,
    }
}

/// The only row of a response, if there is one.
fn first(response: Result<Vec<Row>, StatementFailure>) -> Result<Option<Row>, TransportError> {
    response.map(|rows| rows.into_iter().next()).map_err(|failure| failure.error)
}

/// Runs several statements without parameters as one.
async fn batch(session: &Session, text: &str) -> Result<(), TransportError> {
    session.batch(text).await.map_err(|failure| {
        if failure.is_broken {
            session.kill();
        }
        failure.error
    })
}

fn count(row: &Row) -> Result<u64, TransportError> {
    let count: i64 = column(row, 0)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    at: usize,
) -> Result<T, TransportError> {
    row.try_get(at).map_err(|error| TransportError::corrupt(error.to_string()))
}

fn version(number: i64) -> Result<Version, TransportError> {
    Version::new(u64::try_from(number).unwrap_or_default())
}

/// The version in column `at`, and the value in the next.
fn register(row: &Row, at: usize) -> Result<Versioned, TransportError> {
    let value: &[u8] = column(row, at + 1)?;
    Ok(Versioned { version: version(column(row, at)?)?, value: value.into() })
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.inner.config).finish()
    }
}
