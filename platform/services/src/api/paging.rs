//! Offset and limit, 1 to 100, 100 when nothing is said.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;

/// Most results of one page.
const LIMIT_MAX: i64 = 100;

/// The first row of a list: who found none on a page asks it how many there are.
pub(crate) const FIRST: (i64, i64) = (0, 1);

/// Which part of a list.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
pub(crate) struct Paging {
    /// How many results to skip.
    #[serde(default)]
    offset: i64,
    /// How many results to give, 1 to 100.
    #[serde(default = "limit_max")]
    limit: i64,
}

fn limit_max() -> i64 {
    LIMIT_MAX
}

impl Paging {
    /// The SQL values, once they are known to be in range.
    pub(crate) fn checked(self) -> Result<(i64, i64), ApiError> {
        if self.offset < 0 || !(1..=LIMIT_MAX).contains(&self.limit) {
            let detail = format!(
                "use offset >= 0 and limit 1 to {LIMIT_MAX}, not offset {} limit {}",
                self.offset, self.limit
            );
            return Err(ApiError::bad_request("OS-PLT-40001", detail));
        }
        Ok((self.offset, self.limit))
    }
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The results of this page.
    pub(crate) results: Vec<T>,
    /// How many there are in all.
    pub(crate) total: i64,
}
