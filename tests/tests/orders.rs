//! `guest-examples/orders`, as a shop and an office use it: nothing is sold twice, and what is cancelled comes back.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::Write as _;
use std::process::Stdio;

use odeon_tests::{Installation, eventually, odeon};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const PASSWORD: &str = "open sesame";

#[tokio::test]
async fn a_shop_sells_what_it_has() {
    let site = Installation::start().await;
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-examples");
    for project in ["tax-rules", "orders"] {
        site.succeed(&["publish", &format!("{examples}/{project}")]);
    }
    let stock = json!([
        { "Code": "tea", "Name": "Green tea", "Price": 4.35, "Stock": 5 },
        { "Code": "cup", "Name": "Cup", "Price": 12, "Stock": 100 },
    ]);
    let office = site.url("development", "/Orders/rest/Office");
    let (status, answer) = site.send(Method::PUT, &format!("{office}/Stock"), Some(stock)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!(2)));

    nobody_orders_without_the_password(&site).await;
    the_last_articles_are_sold_once(&site).await;
    an_order_is_placed_whole_or_not_at_all(&site).await;
    unpaid_orders_are_cancelled_by_a_timer(&site).await;
}

async fn place(site: &Installation, password: &str, lines: Value) -> (StatusCode, Value) {
    let url = site.url("development", "/Orders/rest/Shop/Orders");
    let order = json!({ "Customer": "Ann", "Mail": "ann@example.org", "Country": 1, "Lines": lines });
    let request = site.client.post(url).basic_auth("shop", Some(password)).json(&order);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn stock_of(site: &Installation, code: &str) -> i64 {
    let url = site.url("development", "/Orders/rest/Shop/Articles?SortBy=Stock%20desc");
    let request = site.client.get(url).basic_auth("shop", Some(PASSWORD));
    let articles: Value = request.send().await.unwrap().json().await.unwrap();
    let found = articles.as_array().unwrap().iter().find(|article| article["Code"] == code);
    found.map_or(0, |article| article["Stock"].as_i64().unwrap())
}

async fn nobody_orders_without_the_password(site: &Installation) {
    let lines = || json!([{ "Code": "cup" }]);
    assert_eq!(place(site, "", lines()).await.0, StatusCode::UNAUTHORIZED, "no password is set yet");
    let mut set = odeon(site.data());
    let set = set.args(["settings", "set", "Orders", "ShopPassword"]).stdin(Stdio::piped());
    let mut set = set.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());
    assert_eq!(place(site, "Open Sesame", lines()).await.0, StatusCode::UNAUTHORIZED, "case counts here");
}

async fn the_last_articles_are_sold_once(site: &Installation) {
    let one = || place(site, PASSWORD, json!([{ "Code": "tea" }, { "Code": "cup", "Count": 2 }]));
    let (a, b, c, d, e, f, g, h) = tokio::join!(one(), one(), one(), one(), one(), one(), one(), one());
    let answers = [a, b, c, d, e, f, g, h];
    let sold: Vec<&Value> = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::CREATED)
        .map(|(_, placed)| placed)
        .collect();
    assert_eq!(sold.len(), 5, "{answers:?}");
    for placed in &sold {
        // 28.35 net, and 20 % of it to the cent.
        let amounts = (&placed["Net"], &placed["Tax"], &placed["Gross"]);
        assert_eq!(amounts, (&json!(28.35), &json!(5.67), &json!(34.02)), "{placed}");
    }
    for (status, refused) in answers.iter().filter(|(status, _)| *status != StatusCode::CREATED) {
        assert_eq!(*status, StatusCode::CONFLICT, "{refused}");
        assert_eq!(refused["Errors"], json!(["Green tea: 0 left, 1 wanted"]));
    }
    assert_eq!(stock_of(site, "tea").await, 0);
    // Refused orders have given their cups back.
    assert_eq!(stock_of(site, "cup").await, 90);
}

async fn an_order_is_placed_whole_or_not_at_all(site: &Installation) {
    for (lines, status, message) in [
        (json!([]), StatusCode::BAD_REQUEST, "An order needs a line"),
        (json!([{ "Code": "cup" }, { "Code": "pot" }]), StatusCode::NOT_FOUND, "There is no article pot"),
        (json!([{ "Code": "cup", "Count": 0 }]), StatusCode::BAD_REQUEST, "must be 1 or more, not 0"),
        (json!([{ "Count": 1 }]), StatusCode::BAD_REQUEST, "Lines[0].Code: required"),
    ] {
        let (answered, refused) = place(site, PASSWORD, lines).await;
        assert_eq!(answered, status, "{refused}");
        assert!(refused["Errors"][0].as_str().unwrap().contains(message), "{refused}");
    }
    assert_eq!(stock_of(site, "cup").await, 90);

    let (_, placed) = place(site, PASSWORD, json!([{ "Code": "cup", "Count": 10 }])).await;
    let number = placed["Number"].as_str().unwrap();
    assert_eq!(number, "O-000006", "{placed}");
    let url = site.url("development", &format!("/Orders/rest/Shop/Orders/{number}"));
    for _ in 0..2 {
        let request = site.client.delete(&url).basic_auth("shop", Some(PASSWORD));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(stock_of(site, "cup").await, 90, "cancelled once, however often it is asked for");
    }
}

async fn unpaid_orders_are_cancelled_by_a_timer(site: &Installation) {
    let office = site.url("development", "/Orders/rest/Office");
    let (_, figures) = site.get(&format!("{office}/Figures")).await;
    assert_eq!(
        figures,
        json!([
            { "Name": "Cup", "Sold": 10, "Revenue": 120 },
            { "Name": "Green tea", "Sold": 5, "Revenue": 21.75 },
        ])
    );
    site.succeed(&["settings", "set", "Orders", "ReservationHours=0"]);
    eventually("everything is in stock again", async || {
        // Times have whole seconds, and an order of this second is not too old yet: whoever comes so early asks again.
        let (status, _) = site.send(Method::POST, &format!("{office}/CancelUnpaid"), None).await;
        assert_eq!(status, StatusCode::OK);
        (stock_of(site, "tea").await == 5 && stock_of(site, "cup").await == 100).then_some(())
    })
    .await;
    eventually("the timer says how many", async || {
        let logs = site.succeed(&["logs", "Orders"]);
        let said = logs.lines().filter_map(|line| line.split_once(" orders were cancelled"));
        let counts = said.filter_map(|(before, _)| before.split(' ').next_back()?.parse::<u32>().ok());
        (counts.sum::<u32>() == 5).then_some(())
    })
    .await;
    assert_eq!(site.get(&format!("{office}/Figures")).await.1, json!([]));
}
