//! COMMAND: what commands there are, from the table of calls and the list of our own.
//!
//! Called by: `commands::run`.

use super::{OWN, not_served};
use quorate_calls::{Spec, lookup, specs};
use quorate_types::{Blob, Reply};

/// A command as this shows it.
struct Shown {
    name: &'static str,
    arity: i64,
    spec: Option<&'static Spec>,
}

pub(super) fn run(name: &str, words: &[Blob]) -> Reply {
    match name {
        "command" => Reply::array(all().filter(Shown::is_top).map(|shown| shown.info()).collect()),
        "command|count" => Reply::count(all().filter(Shown::is_top).count()),
        "command|list" => list(&words[2..]),
        "command|info" if words.len() == 2 => {
            Reply::array(all().filter(Shown::is_top).map(|shown| shown.info()).collect())
        }
        "command|info" => Reply::array(
            words[2..].iter().map(|name| find(name).map_or(Reply::NilArray, |shown| shown.info())).collect(),
        ),
        "command|docs" if words.len() == 2 => {
            Reply::map(all().filter(Shown::is_top).flat_map(|shown| shown.docs()).collect())
        }
        "command|docs" => {
            Reply::map(words[2..].iter().filter_map(find).flat_map(|shown| shown.docs()).collect())
        }
        "command|getkeys" => keys(&words[2..]),
        other => not_served(other),
    }
}

fn all() -> impl Iterator<Item = Shown> {
    let calls = specs().iter().map(|spec| Shown { name: spec.name, arity: spec.arity, spec: Some(spec) });
    let own = OWN.iter().filter(|(name, _)| lookup(name.as_bytes()).is_none());
    calls.chain(own.map(|(name, arity)| Shown { name, arity: *arity, spec: None }))
}

fn find(name: &Blob) -> Option<Shown> {
    all().find(|shown| name.eq_ignore_ascii_case(shown.name.as_bytes()))
}

fn list(filter: &[Blob]) -> Reply {
    let keep: Box<dyn Fn(&Shown) -> bool> = match filter {
        [] => Box::new(|_| true),
        [by, kind, pattern]
            if by.eq_ignore_ascii_case(b"filterby") && kind.eq_ignore_ascii_case(b"pattern") =>
        {
            let pattern = pattern.clone();
            Box::new(move |shown| quorate_calls::matches(&pattern, shown.name.as_bytes()))
        }
        [by, kind, _] if by.eq_ignore_ascii_case(b"filterby") && kind.eq_ignore_ascii_case(b"module") => {
            Box::new(|_| false)
        }
        _ => return Reply::error("ERR syntax error"),
    };
    Reply::array(
        all().filter(|shown| shown.is_top() && keep(shown)).map(|shown| Reply::bulk(shown.name)).collect(),
    )
}

fn keys(words: &[Blob]) -> Reply {
    let spec = match quorate_calls::check(words) {
        Ok(spec) => spec,
        Err(_) if lookup(&words[0]).is_none() => return Reply::error("ERR Invalid command specified"),
        Err(_) => return Reply::error("ERR Invalid number of arguments specified for command"),
    };
    match quorate_calls::keys_of(spec, words) {
        Ok(places) => {
            Reply::array(places.into_iter().map(|place| Reply::bulk(words[place].clone())).collect())
        }
        Err(refused) => Reply::Error { text: refused.text().clone() },
    }
}

impl Shown {
    /// Whether it is no subcommand.
    fn is_top(&self) -> bool {
        !self.name.contains('|')
    }

    /// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
    fn info(&self) -> Reply {
        let (first, last, step) = self.spec.map_or((0, 0, 0), |spec| spec.keys.info());
        let flags = self.spec.map(|spec| spec.flags.names().map(Reply::status).collect()).unwrap_or_default();
        let permission = quorate_calls::permission(self.name.as_bytes());
        let categories = permission.map(|permission| {
            permission.categories.names().map(|name| Reply::status(format!("@{name}"))).collect()
        });
        let categories = categories.unwrap_or_default();
        Reply::array(vec![
            Reply::bulk(self.name),
            Reply::integer(self.arity),
            Reply::set(flags),
            Reply::integer(first),
            Reply::integer(last),
            Reply::integer(step),
            Reply::set(categories),
            Reply::array(vec![]),
            Reply::array(vec![]),
            Reply::array(vec![]),
        ])
    }

    fn docs(&self) -> [Reply; 2] {
        let mut fields = Vec::new();
        if let Some(spec) = self.spec {
            for (field, value) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group)] {
                fields.extend([Reply::bulk(field), Reply::bulk(value)]);
            }
        }
        [Reply::bulk(self.name), Reply::map(fields)]
    }
}
