//! `sqlite-static DATABASE SQL`: runs the statements one after another and prints each row, its columns joined by `|`,
//! as the `sqlite3` shell does. `mkdir(PATH)` is an SQL function, so that a statement can take a ZFS snapshot.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Row};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, database, sql] = args.as_slice() else {
        eprintln!("usage: sqlite-static DATABASE SQL");
        return ExitCode::from(2);
    };
    match run(database, sql) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sqlite-static: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(database: &str, sql: &str) -> rusqlite::Result<()> {
    let connection = Connection::open(database)?;
    connection.create_scalar_function("mkdir", 1, FunctionFlags::SQLITE_UTF8, |context| {
        let path: String = context.get(0)?;
        std::fs::create_dir(path).map_err(|e| rusqlite::Error::UserFunctionError(Box::new(e)))?;
        Ok(0)
    })?;
    let mut batch = Batch::new(&connection, sql);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            println!("{}", (0..columns).map(|i| column(row, i)).collect::<Result<Vec<_>, _>>()?.join("|"));
        }
    }
    Ok(())
}

fn column(row: &Row<'_>, i: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(i)? {
        ValueRef::Null => String::new(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("x'{}'", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    })
}
