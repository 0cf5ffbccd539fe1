//! `tarn zfs userspace`, `groupspace` and `projectspace`; the properties `userquota@…` and their like.

use super::select::dataset;
use crate::cli::zfs::Space;
use crate::commands::open::OpenPool;
use crate::output::{Align, Column, Table};
use crate::quantity;
use anyhow::{Context, Result, bail, ensure};
use std::cmp::Ordering;
use std::process::ExitCode;
use std::sync::Arc;
use zfs::dmu::Accounted;
use zfs::dsl::{Dataset, Property, Source, Value};
use zfs::ondisk::objset::ObjsetKind;
use zfs::zpl::{self, Account};

const COLUMNS: [&str; 6] = ["type", "name", "used", "quota", "objused", "objquota"];
/// Space that a new limit may dirty, in bytes.
const RESERVE: u64 = 64 << 10;

/// A line of the table.
struct Row {
    kind: Kind,
    account: Account,
    name: Option<String>,
}

/// Whose line it is, in the order of the types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    PosixUser,
    SmbUser,
    PosixGroup,
    SmbGroup,
    Project,
}

impl Kind {
    fn of(what: Accounted, id: u64) -> Kind {
        // An id with a domain is not POSIX's (`FUID_INDEX`).
        match (what, id >> 32 != 0) {
            (Accounted::User, false) => Kind::PosixUser,
            (Accounted::User, true) => Kind::SmbUser,
            (Accounted::Group, false) => Kind::PosixGroup,
            (Accounted::Group, true) => Kind::SmbGroup,
            (Accounted::Project, _) => Kind::Project,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Kind::PosixUser => "POSIX User",
            Kind::SmbUser => "SMB User",
            Kind::PosixGroup => "POSIX Group",
            Kind::SmbGroup => "SMB Group",
            Kind::Project => "Project",
        }
    }
}

/// The types that are shown.
fn types(options: &Space, what: Accounted) -> Result<Vec<Kind>> {
    if what == Accounted::Project {
        ensure!(options.types.is_empty() && !options.numeric, "projects have neither types nor names");
        return Ok(vec![Kind::Project]);
    }
    if options.types.is_empty() {
        let own = [Kind::PosixUser, Kind::SmbUser, Kind::PosixGroup, Kind::SmbGroup];
        return Ok(if what == Accounted::User { own[..2].to_vec() } else { own[2..].to_vec() });
    }
    let mut kinds = Vec::new();
    for name in &options.types {
        kinds.extend(match name.as_str() {
            "posixuser" => vec![Kind::PosixUser],
            "smbuser" => vec![Kind::SmbUser],
            "posixgroup" => vec![Kind::PosixGroup],
            "smbgroup" => vec![Kind::SmbGroup],
            "all" => vec![Kind::PosixUser, Kind::SmbUser, Kind::PosixGroup, Kind::SmbGroup],
            other => bail!("-t {other}: the types are posixuser, smbuser, posixgroup, smbgroup and all"),
        });
    }
    Ok(kinds)
}

/// `zfs userspace` and its siblings.
pub(super) fn list(opened: &OpenPool, options: &Space, what: Accounted) -> Result<ExitCode> {
    let columns: Vec<&str> = match options.columns.is_empty() {
        true => COLUMNS.to_vec(),
        false => options.columns.iter().map(String::as_str).collect(),
    };
    for column in &columns {
        ensure!(COLUMNS.contains(column), "-o {column}: the columns are {}", COLUMNS.join(", "));
    }
    for key in options.sort.iter().chain(&options.sort_descending) {
        ensure!(COLUMNS[..4].contains(&key.as_str()), "-s {key}: sorted is by {}", COLUMNS[..4].join(", "));
    }
    let kinds = types(options, what)?;
    let dataset = dataset(opened, &options.dataset)?;
    let os = dataset.objset().with_context(|| options.dataset.clone())?;
    ensure!(os.kind() == ObjsetKind::Zfs, "{}: only file systems have users", options.dataset);
    let mut rows = Vec::new();
    for what in [Accounted::User, Accounted::Group, Accounted::Project] {
        for account in zpl::accounts(&os, what).with_context(|| options.dataset.clone())? {
            let kind = Kind::of(what, account.id);
            if kinds.contains(&kind) {
                let name = if options.numeric { None } else { names::of(what, account.id) };
                rows.push(Row { kind, account, name });
            }
        }
    }
    rows.sort_by(|a, b| compare(a, b, options));
    let align = |column| if matches!(column, "type" | "name") { Align::Left } else { Align::Right };
    let mut table = Table::new(columns.iter().map(|c| Column::new(c, align(c))).collect());
    let exact = options.listing.exact();
    for row in rows {
        table.push(columns.iter().map(|c| cell(&row, c, exact)).collect());
    }
    if table.is_empty() && !options.listing.json {
        return Ok(ExitCode::SUCCESS);
    }
    table.show(options.listing.style())
}

fn compare(a: &Row, b: &Row, options: &Space) -> Ordering {
    let by = |key: &str| match key {
        "type" => a.kind.cmp(&b.kind),
        "used" => a.account.used.unwrap_or(0).cmp(&b.account.used.unwrap_or(0)),
        "quota" => a.account.quota.unwrap_or(0).cmp(&b.account.quota.unwrap_or(0)),
        // Who has no name counts as a number, before all names.
        _ => a.name.cmp(&b.name).then(a.account.id.cmp(&b.account.id)),
    };
    let ascending = options.sort.iter().fold(Ordering::Equal, |o, key| o.then_with(|| by(key)));
    let descending =
        options.sort_descending.iter().fold(Ordering::Equal, |o, key| o.then_with(|| by(key).reverse()));
    ascending.then(descending).then_with(|| by("type")).then_with(|| by("name"))
}

fn cell(row: &Row, column: &str, exact: bool) -> String {
    let account = &row.account;
    let (number, limit, bytes) = match column {
        "type" => return row.kind.shown().to_owned(),
        "name" => return row.name.clone().unwrap_or_else(|| account.id.to_string()),
        "used" => (account.used, false, true),
        "quota" => (account.quota, true, true),
        "objused" => (account.objects, false, false),
        _ => (account.object_quota, true, false),
    };
    match number {
        None => "-".to_owned(),
        Some(number) if exact => number.to_string(),
        Some(0) if limit => "none".to_owned(),
        Some(number) => quantity(number, bytes),
    }
}

fn quantity(number: u64, bytes: bool) -> String {
    let text = quantity::human(number);
    if bytes { text } else { text.trim_end_matches('B').to_owned() }
}

/// Whether a property is one of a user, a group or a project.
pub(super) fn is_property(name: &str) -> bool {
    let kind = name.split_once('@').map_or("", |(kind, _)| kind);
    let rest = ["user", "group", "project"].iter().find_map(|prefix| kind.strip_prefix(prefix));
    rest.is_some_and(|rest| matches!(rest, "quota" | "objquota" | "used" | "objused"))
}

/// What a property like `userobjquota@1000` is about: users, groups or projects; objects; a limit, or what is used; the id.
fn parse(property: &str) -> Result<(Accounted, bool, bool, u64)> {
    let unknown = || format!("{property}: there is no such property");
    let (kind, whom) = property.split_once('@').with_context(unknown)?;
    let (what, rest) =
        [("user", Accounted::User), ("group", Accounted::Group), ("project", Accounted::Project)]
            .into_iter()
            .find_map(|(prefix, what)| kind.strip_prefix(prefix).map(|rest| (what, rest)))
            .with_context(unknown)?;
    let (objects, limit) = match rest {
        "quota" => (false, true),
        "objquota" => (true, true),
        "used" => (false, false),
        "objused" => (true, false),
        _ => bail!(unknown()),
    };
    let id = whom.parse().ok().or_else(|| names::id(what, whom));
    Ok((
        what,
        objects,
        limit,
        id.with_context(|| format!("{property}: this machine knows nobody of that name"))?,
    ))
}

/// Sets limits: `userquota@…`, `groupobjquota@…`, ….
pub(super) fn set_quotas(dataset: &Arc<Dataset>, pairs: &[(&str, &str)]) -> Result<()> {
    let mut wanted = Vec::new();
    for (property, value) in pairs {
        let (what, objects, limit, id) = parse(property)?;
        ensure!(limit, "{property}: is read-only");
        let number = match *value {
            "none" | "0" => None,
            text => Some(quantity::parse_size(text).with_context(|| format!("{property}={text}"))?),
        };
        wanted.push((what, objects, id, number));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    ensure!(!dataset.is_snapshot(), "a snapshot has no quotas");
    let os = dataset.objset()?;
    ensure!(os.kind() == ObjsetKind::Zfs, "only file systems have users");
    let tx = os.begin_net_free(RESERVE)?;
    wanted
        .into_iter()
        .try_for_each(|(what, objects, id, limit)| zpl::set_quota(&os, &tx, what, objects, id, limit))?;
    Ok(())
}

/// The value of such a property; `None` if it says nothing of this dataset.
pub(super) fn property(dataset: &Arc<Dataset>, property: &str) -> Result<Option<Property>> {
    let (what, objects, limit, id) = parse(property)?;
    let os = dataset.objset()?;
    if os.kind() != ObjsetKind::Zfs {
        return Ok(None);
    }
    let number = match limit {
        true => zpl::quota(&os, what, objects, id)?.unwrap_or(0),
        false => zpl::used(&os, what, objects, id)?,
    };
    let text = if limit && number == 0 { "none".to_owned() } else { number.to_string() };
    let human = if limit && number == 0 { text.clone() } else { quantity(number, !objects) };
    let source = if limit { Source::Local } else { Source::None };
    Ok(Some(Property { name: property.to_owned(), value: Value::Number(number), text, human, source }))
}

/// The names that this machine has for ids.
mod names {
    use zfs::dmu::Accounted;

    fn lines(what: Accounted) -> String {
        let path = match what {
            Accounted::User => "/etc/passwd",
            Accounted::Group => "/etc/group",
            Accounted::Project => return String::new(),
        };
        // Without it nobody has a name.
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// `name:x:id:…`
    fn entry(line: &str) -> Option<(&str, u64)> {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    }

    pub(super) fn of(what: Accounted, id: u64) -> Option<String> {
        lines(what).lines().filter_map(entry).find(|(_, other)| *other == id).map(|(name, _)| name.to_owned())
    }

    pub(super) fn id(what: Accounted, name: &str) -> Option<u64> {
        lines(what).lines().filter_map(entry).find(|(other, _)| *other == name).map(|(_, id)| id)
    }
}
