//! `odeon logs`: what an app wrote, and why requests failed.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use odeon_protocol::{LogLevel, LogLine};

use crate::api::Api;
use crate::layout::Layout;
use crate::report;

/// Longest line that is put together, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Which lines.
pub(crate) struct Which {
    pub(crate) app: String,
    pub(crate) stage: String,
    pub(crate) lines: u32,
    pub(crate) follow: bool,
    pub(crate) request: Option<String>,
    pub(crate) json: bool,
}

pub(crate) async fn logs(layout: &Layout, which: Which) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let asset = api.asset(&which.app).await?;
    let response = api.logs(&asset, &which).await?;
    let mut body = response.bytes_stream();
    let mut rest = Vec::new();
    while let Some(bytes) = body.next().await {
        rest.extend_from_slice(&bytes.context("the log broke off; ask again")?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !print(&line, which.json)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            anyhow::bail!("the Platform sent a line of more than {LINE_BYTES_MAX} bytes");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// False when nobody reads any more.
fn print(text: &[u8], json: bool) -> Result<bool> {
    if json {
        return Ok(report::print(String::from_utf8_lossy(text).trim_end()));
    }
    let line: LogLine = serde_json::from_slice(text).context("understand a log line")?;
    let level = match line.level {
        LogLevel::Debug => "DEBUG",
        LogLevel::Info => "INFO",
        LogLevel::Warning => "WARN",
        LogLevel::Error => "ERROR",
    };
    let mut text = format!("{} {level:<5} r{} {}", line.time, line.revision, line.message.trim_end());
    if let Some(code) = &line.error_code {
        text.push_str(&format!(" [{code}]"));
    }
    if let Some(action) = line.action.as_ref().filter(|action| !action.is_empty()) {
        text.push_str(&format!(" at {action}/{}", line.node.as_deref().unwrap_or("")));
    }
    if !line.request_id.is_empty() {
        text.push_str(&format!(" request {}", line.request_id));
    }
    Ok(report::print(text))
}
