//! `expenses-axum`: `GET /List` of `guest-examples/expenses`, as somebody would write it with axum and sqlx.
//!
//! Usage: `expenses-axum <postgres URL> <schema> <connections>`; prints the address on which it listens.
//! Invariant: the JSON is that of the OML app, byte for byte; the benchmark refuses to measure otherwise.

use anyhow::{Context as _, Result};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{NaiveDate, NaiveDateTime, Timelike as _};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

const LIST: &str = r#"SELECT "Id", "Description", "Amount", "SpentOn", "Status", "CategoryId", "CreatedAt" FROM "Expense"
    WHERE ($1 = '' OR "Status" = $1) AND ($2 = 0 OR "CategoryId" = $2)
    ORDER BY "SpentOn" DESC, "Id" DESC LIMIT NULLIF(GREATEST($3, 0), 0) OFFSET GREATEST($4, 0)"#;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    status: String,
    category_id: i64,
    max_records: i32,
    start_index: i32,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { status: String::new(), category_id: 0, max_records: 50, start_index: 0 }
    }
}

#[derive(Serialize, sqlx::FromRow)]
#[serde(rename_all = "PascalCase")]
#[sqlx(rename_all = "PascalCase")]
struct Expense {
    id: i64,
    description: String,
    #[serde(serialize_with = "shortest")]
    amount: Decimal,
    spent_on: NaiveDate,
    status: String,
    #[serde(serialize_with = "or_zero")]
    category_id: Option<i64>,
    #[serde(serialize_with = "utc")]
    created_at: NaiveDateTime,
}

fn shortest<S: Serializer>(amount: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    rust_decimal::serde::arbitrary_precision::serialize(&amount.normalize(), serializer)
}

fn or_zero<S: Serializer>(id: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(id.unwrap_or(0))
}

fn utc<S: Serializer>(at: &NaiveDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    let whole = at.with_nanosecond(0).unwrap_or(*at);
    // Debug is ISO 8601, and the fastest way that chrono has.
    match at.nanosecond() / 1_000 {
        0 => serializer.collect_str(&format_args!("{whole:?}Z")),
        micros => serializer.collect_str(&format_args!("{whole:?}.{micros:06}Z")),
    }
}

async fn list(
    State(pool): State<PgPool>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Expense>>, (StatusCode, String)> {
    let found = sqlx::query_as::<_, Expense>(LIST)
        .bind(wanted.status)
        .bind(wanted.category_id)
        .bind(wanted.max_records)
        .bind(wanted.start_index)
        .fetch_all(&pool)
        .await;
    found.map(Json).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, schema, connections] = &arguments[..] else {
        anyhow::bail!("usage: expenses-axum <postgres URL> <schema> <connections>")
    };
    let options: PgConnectOptions = url.parse().context("understand the URL")?;
    let options = options.options([("search_path", schema.as_str())]);
    let pool = PgPoolOptions::new().max_connections(connections.parse()?).connect_with(options).await?;
    let app = Router::new().route("/List", get(list)).with_state(pool);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
