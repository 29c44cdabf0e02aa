//! A cluster as people read it, and the questions that are asked of its state.
//!
//! Called by: `cluster`, `status`, `up`.

use crate::output::grouped;
use serde_json::Value;

/// The member with this number.
pub(crate) fn member(status: &Value, node: u64) -> Option<&Value> {
    status["members"].as_array()?.iter().find(|member| member["id"] == node)
}

/// What a member may do; nothing when it is none.
pub(crate) fn role(status: &Value, node: u64) -> Option<&str> {
    member(status, node)?["role"].as_str()
}

/// Who leads, if anybody is known to.
pub(crate) fn leader(status: &Value) -> Option<u64> {
    status["leader"].as_u64()
}

/// The nodes that count for the quorum.
pub(crate) fn voters(status: &Value) -> Vec<u64> {
    let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let voters = members.iter().filter(|member| member["role"] == "voter");
    voters.filter_map(|member| member["id"].as_u64()).collect()
}

/// The whole state: a line on the cluster, a row for each member.
pub(crate) fn text(status: &Value) -> String {
    let cluster = status["cluster"].as_str().unwrap_or_default();
    let mut text = match leader(status) {
        _ if cluster.bytes().all(|digit| digit == b'0') => {
            format!("node {} is not a member of a cluster yet\n", status["node"])
        }
        Some(leader) => {
            let url = status["leader_url"].as_str().map(|url| format!(" at {url}")).unwrap_or_default();
            format!("cluster {cluster}, term {}, led by node {leader}{url}\n", status["term"])
        }
        None => format!("cluster {cluster}, term {}, no leader is known\n", status["term"]),
    };
    if let Some(missing) = status["missing"].as_str() {
        text += &format!("not serving: {missing}\n");
    }
    let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    if members.is_empty() {
        return text;
    }
    let committed = status["committed"].as_u64().unwrap_or_default();
    let mut rows = vec![
        ["NODE", "ROLE", "STATE", "APPLIED", "HEARD", "CLOCK", "PEERS DIAL", "CLIENTS"].map(String::from),
    ];
    rows.extend(members.iter().map(|member| row(member, status, committed)));
    text + &columns(&rows)
}

fn row(member: &Value, status: &Value, committed: u64) -> [String; 8] {
    let own = member["id"] == status["node"];
    let applied = member["applied"].as_u64().unwrap_or_default();
    let behind = committed.saturating_sub(applied);
    let state = if member["copying"] == true {
        "copying the log".to_owned()
    } else if member["recovering"] == true {
        "recovering".to_owned()
    } else if !own && member["heard_ms"].as_u64().is_none_or(|heard| heard > 1500) {
        "silent".to_owned()
    } else if behind > 1000 {
        format!("{} behind", grouped(behind))
    } else if leader(status) == member["id"].as_u64() {
        "leads".to_owned()
    } else {
        "follows".to_owned()
    };
    let heard = match member["heard_ms"].as_u64() {
        _ if own => "here".to_owned(),
        Some(heard) => format!("{heard} ms"),
        None => "never".to_owned(),
    };
    let clock =
        member["clock_ahead_ms"].as_i64().map_or_else(|| "-".to_owned(), |ahead| format!("{ahead:+} ms"));
    let text = |name: &str| member[name].as_str().unwrap_or_default().to_owned();
    [
        member["id"].to_string(),
        text("role"),
        state,
        grouped(applied),
        heard,
        clock,
        text("address"),
        text("http"),
    ]
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (place, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[place].chars().count()).max().unwrap_or_default();
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Value {
        json!({"node": 1, "cluster": "00000000000000ab", "term": 3, "leader": 2, "leader_url": "http://b:1",
        "missing": null, "committed": 5000, "members": [
            {"id": 1, "role": "voter", "address": "a:2", "http": "http://a:1", "applied": 5000, "heard_ms": 0,
                "copying": false, "recovering": false, "clock_ahead_ms": null},
            {"id": 2, "role": "voter", "address": "b:2", "http": "http://b:1", "applied": 5000, "heard_ms": 90,
                "copying": false, "recovering": false, "clock_ahead_ms": -3},
            {"id": 3, "role": "learner", "address": "c:2", "http": "", "applied": 7, "heard_ms": 9000,
                "copying": false, "recovering": false, "clock_ahead_ms": 0},
        ]})
    }

    #[test]
    fn a_table_shows_who_leads_who_is_silent_and_whose_clock_is_off() {
        let text = text(&status());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cluster 00000000000000ab, term 3, led by node 2 at http://b:1");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>()[..4],
            ["NODE", "ROLE", "STATE", "APPLIED"]
        );
        assert!(
            lines[2].contains("voter") && lines[2].contains("follows") && lines[2].contains("here"),
            "{text}"
        );
        assert!(lines[3].contains("leads") && lines[3].contains("-3 ms"), "{text}");
        assert!(lines[4].contains("learner") && lines[4].contains("silent"), "{text}");
    }

    #[test]
    fn what_is_missing_comes_before_the_members() {
        let mut status = status();
        status["leader"] = Value::Null;
        status["missing"] = "the quorum is lost".into();
        let text = text(&status);
        assert!(
            text.starts_with(
                "cluster 00000000000000ab, term 3, no leader is known\nnot serving: the quorum is lost\nNODE"
            ),
            "{text}"
        );
    }

    #[test]
    fn members_are_found_by_number_and_role() {
        let status = status();
        assert_eq!((role(&status, 3), role(&status, 4)), (Some("learner"), None));
        assert_eq!((leader(&status), voters(&status)), (Some(2), vec![1, 2]));
    }
}
