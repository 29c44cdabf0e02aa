//! Users, and the one place where it is decided who may do what.
//!
//! Users are rows, changed by logged commands: every replica agrees on who may do what at each place of the log. Every command is checked when
//! it is applied ([`Machine::forbids`] for the whole, `commit::op` for each operation, [`Rights::call`] for each call of a script), so that a
//! right that is taken away counts from its place in the log on, whatever node, connection or task the command comes from. The same functions are
//! asked before a command is logged, so that what is refused anyhow costs no entry; and by gateways, before they read.
//!
//! Invariant: a principal of a user without a row is refused everything; only `anonymous` without one may do everything (the open door).
//! Invariant: after no change is there nobody left who could enter and manage users, unless its sender had another way in.
//! Called by: `Machine::execute`, `commit`, `calls`; gateways through [`Machine::rights`].
//! Source: Redis' ACL for the language of rules; AWS IAM for "a denial outweighs".

use crate::roles::{Granted, Stretches, Tokens};
use crate::table::Table;
use crate::{Machine, Now};
use quorate_calls::permissions::{self, Categories, READS, WRITES, noperm};
use quorate_calls::{Error, Spec, permission};
use quorate_types::codec::{Reader, Writer};
use quorate_types::{
    AccessChange, Blob, Command, CommandBody, CommandRule, Commit, Committed, DEFAULT_USER, DecodeError,
    Denied, Digest, Guard, Key, KeyRange, Keyspace, LeaseId, LogIndex, MemberChange, Mode, NameRule, Op,
    OpError, OpResult, Outcome, Principal, RULES_MAX, Refusal, Role, User, UserChange, Verbs,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A user as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) user: User,
    /// The entry that made it: tells a user from an earlier one of the same name.
    pub(crate) created: LogIndex,
}
quorate_types::wire_struct!(Row { user, created });

#[derive(Default)]
pub(crate) struct Users {
    rows: Table<Blob, Row>,
    pub(crate) roles: Table<Blob, Role>,
    pub(crate) given: Tokens,
    /// How often users or roles have changed since the beginning, in its one row.
    counts: Table<u8, u64>,
    /// The same, ready to be asked.
    accesses: BTreeMap<Blob, Arc<Access>>,
    tokens: BTreeMap<Digest, Blob>,
    /// The entry of the last change.
    changed: LogIndex,
}

/// What a user may do, and how it enters.
#[derive(Debug)]
pub struct Access {
    name: Blob,
    user: User,
    created: LogIndex,
    commands: Vec<(bool, Matches)>,
    granted: Arc<Granted>,
    /// No rule restricts anything.
    unbound: bool,
}

/// Which commands a rule speaks of.
#[derive(Debug)]
enum Matches {
    All,
    Category(Categories),
    Named(Blob),
}

/// What a principal may do.
#[derive(Clone, Debug)]
pub enum Rights {
    /// Everything: the server itself, an operator, or anybody while the door is open.
    Everything,
    /// What this user may.
    User(Arc<Access>),
    /// Nothing: there is no such user.
    Gone(Blob),
}

impl Users {
    fn get(&self, name: &[u8]) -> Option<&Arc<Access>> {
        if self.accesses.is_empty() { None } else { self.accesses.get(&Blob::copy_from(name)) }
    }

    fn set(&mut self, name: &Blob, row: Option<Row>, index: LogIndex) {
        let after = row.as_ref().map(|row| row.user.clone());
        let before = self.rows.set(name.clone(), row);
        let same = before.zip(after).is_some_and(|(before, after)| before.user.enters_as(&after));
        if !same {
            self.given.forget_user(name);
        }
        self.count();
        self.touched(index);
        self.compile();
    }

    /// Sets a row; the rest is the caller's.
    pub(crate) fn put(&mut self, name: &Blob, row: Option<Row>) {
        self.rows.set(name.clone(), row);
    }
    pub(crate) fn row(&self, name: &Blob) -> Option<&Row> {
        self.rows.get(name)
    }
    pub(crate) fn take_role_from_all(&mut self, role: &Blob) {
        let having = self.rows.iter().filter(|(_, row)| row.user.roles.contains(role));
        let names: Vec<Blob> = having.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.rows.update(&name, |row| row.user.roles.retain(|other| other != role));
        }
    }
    /// Counts a change.
    pub(crate) fn count(&mut self) {
        let counted = self.counts.get(&0).copied().unwrap_or_default();
        self.counts.set(0, Some(counted + 1));
    }
    pub(crate) fn revision(&self) -> u64 {
        self.counts.get(&0).copied().unwrap_or_default() + 1
    }
    pub(crate) fn touched(&mut self, index: LogIndex) {
        self.changed = index;
    }
    /// A point to roll users and roles back to.
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.rows.mark(), self.roles.mark())
    }
    pub(crate) fn rollback(&mut self, (rows, roles): (usize, usize)) {
        self.rows.rollback(rows, |_, _, _| {});
        self.roles.rollback(roles, |_, _, _| {});
    }

    pub(crate) fn compile(&mut self) {
        self.accesses.clear();
        self.tokens.clear();
        for (name, row) in self.rows.iter() {
            self.tokens.extend(row.user.tokens.iter().map(|token| (*token, name.clone())));
            self.accesses
                .insert(name.clone(), Arc::new(Access::of(name, row.user.clone(), row.created, &self.roles)));
        }
    }

    pub(crate) fn walk_begin(&mut self) {
        self.rows.walk_begin();
        self.roles.walk_begin();
        self.given.rows.walk_begin();
        self.counts.walk_begin();
    }
    pub(crate) fn walk_next(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.rows.walk_next(rows, out)
    }
    pub(crate) fn walk_roles(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.roles.walk_next(rows, out)
    }
    pub(crate) fn walk_given(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.given.rows.walk_next(rows, out)
    }
    pub(crate) fn walk_counts(&mut self, rows: usize, out: &mut Writer) -> (usize, bool) {
        self.counts.walk_next(rows, out)
    }
    pub(crate) fn walk_end(&mut self) {
        self.rows.walk_end();
        self.roles.walk_end();
        self.given.rows.walk_end();
        self.counts.walk_end();
    }
    pub(crate) fn restore_role(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.roles.restore_row(from).map(drop)
    }
    pub(crate) fn restore_given(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.given.rows.restore_row(from).map(drop)
    }
    pub(crate) fn restore_count(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        self.counts.restore_row(from).map(drop)
    }
    pub(crate) fn restore_row(&mut self, from: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (_, row) = self.rows.restore_row(from)?;
        self.changed = self.changed.max(row.created);
        Ok(())
    }
    pub(crate) fn restored(&mut self, applied: LogIndex) {
        // When the last change was is not kept: that it was no later than the snapshot is enough to look again.
        self.changed = applied;
        self.given.restored();
        self.compile();
    }
    pub(crate) fn digests(&self, scratch: &mut Writer) -> [u128; 4] {
        [
            self.rows.digest(scratch),
            self.roles.digest(scratch),
            self.given.rows.digest(scratch),
            self.counts.digest(scratch),
        ]
    }
    pub(crate) fn forget(&mut self) {
        self.rows.forget();
        self.roles.forget();
        self.given.rows.forget();
        self.counts.forget();
    }
}

impl Access {
    fn of(name: &Blob, user: User, created: LogIndex, roles: &Table<Blob, Role>) -> Self {
        let granted = Arc::new(Granted::of(&user, roles));
        Self::with(name, user, created, granted)
    }

    fn with(name: &Blob, user: User, created: LogIndex, granted: Arc<Granted>) -> Self {
        let matches = |rule: &CommandRule| {
            let what = match rule.what.strip_prefix(b"@") {
                Some(b"all") => Matches::All,
                Some(category) => Matches::Category(Categories::named(category)?),
                None => Matches::Named(rule.what.clone()),
            };
            Some((rule.allow, what))
        };
        let commands: Vec<_> = user.commands.iter().filter_map(matches).collect();
        let everything = |rule: &NameRule| rule.allow && rule.space.is_none() && *rule.pattern == *b"*";
        let all_names = [Verbs::READ, Verbs::WRITE, Verbs::PUBLISH, Verbs::SUBSCRIBE]
            .iter()
            .all(|verb| user.names.iter().any(|rule| everything(rule) && rule.verbs.has(*verb)));
        let all_commands = commands.iter().all(|(allow, _)| *allow) && granted.root
            || matches!(commands.as_slice(), [(true, Matches::All)]);
        let unbound = user.enabled
            && (all_names || granted.root)
            && user.names.iter().all(|rule| rule.allow)
            && all_commands;
        Self { name: name.clone(), user, created, commands, granted, unbound }
    }

    /// The user's name.
    #[must_use]
    pub fn name(&self) -> &Blob {
        &self.name
    }
    /// The user.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }
    /// Its rights, were it enabled.
    #[must_use]
    pub fn as_if_enabled(&self) -> Rights {
        let user = User { enabled: true, ..self.user.clone() };
        Rights::User(Arc::new(Self::with(&self.name, user, self.created, Arc::clone(&self.granted))))
    }
    /// The entry that made it.
    #[must_use]
    pub fn created(&self) -> LogIndex {
        self.created
    }

    /// Whether it may run the command of this name (`container|name` for a subcommand): the last rule that speaks of it decides.
    #[must_use]
    pub fn may_run(&self, name: &[u8]) -> bool {
        let categories = permission(name).map_or(Categories::default(), |permission| permission.categories);
        let container = name.iter().position(|byte| *byte == b'|').map_or(name, |at| &name[..at]);
        let speaks = |what: &Matches| match what {
            Matches::All => true,
            Matches::Category(category) => categories.has(*category),
            Matches::Named(rule) => **rule == *name || **rule == *container,
        };
        let spoken = self.commands.iter().rev().find(|(_, what)| speaks(what));
        spoken.map_or_else(|| self.granted.runs(categories), |(allow, _)| *allow)
    }

    /// Whether it may do this to a name.
    #[must_use]
    pub fn may(&self, verbs: Verbs, space: Keyspace, name: &[u8]) -> bool {
        let speaks = |rule: &NameRule| in_space(rule, space) && quorate_calls::matches(&rule.pattern, name);
        let granted = |stretches: &Stretches| is_default(space) && stretches.has(name);
        self.each_verb(verbs, speaks, speaks, granted)
    }

    /// Whether it may do this to every key of a range.
    #[must_use]
    pub fn may_range(&self, verbs: Verbs, range: &KeyRange) -> bool {
        let covers = |rule: &NameRule| in_space(rule, range.start.space) && covers(&rule.pattern, range);
        let touches = |rule: &NameRule| in_space(rule, range.start.space) && touches(&rule.pattern, range);
        let granted = |stretches: &Stretches| {
            is_default(range.start.space) && stretches.covers(&range.start.name, range.end.as_ref())
        };
        self.each_verb(verbs, covers, touches, granted)
    }

    /// Whether it may do this to all names of all keyspaces.
    #[must_use]
    pub fn may_everything(&self, verbs: Verbs) -> bool {
        self.each_verb(verbs, |rule| rule.space.is_none() && *rule.pattern == *b"*", |_| true, |_| false)
    }

    /// Each verb has to be allowed by some rule; one that denies any of them outweighs. Without a verb, some rule has to speak of the name.
    fn each_verb(
        &self,
        verbs: Verbs,
        allows: impl Fn(&NameRule) -> bool,
        denies: impl Fn(&NameRule) -> bool,
        granted: impl Fn(&Stretches) -> bool,
    ) -> bool {
        let rules = || self.user.names.iter().filter(|rule| !rule.verbs.of_channels());
        let allowed = |verb: Verbs| {
            rules().any(|rule| rule.allow && rule.verbs.has(verb) && allows(rule))
                || self.granted.allows(verb, &granted)
        };
        let wanted = [Verbs::READ, Verbs::WRITE].into_iter().filter(|verb| verbs.has(*verb));
        let all = if verbs == Verbs::NONE { allowed(Verbs::NONE) } else { wanted.into_iter().all(allowed) };
        let both = Verbs::READ.and(Verbs::WRITE);
        let denied = |rule: &NameRule| rule.verbs.any(verbs) || (verbs == Verbs::NONE && rule.verbs == both);
        all && !rules().any(|rule| !rule.allow && denied(rule) && denies(rule))
    }

    /// Whether it may publish to a channel or listen to it. A pattern to listen to has to be one that was allowed, letter by letter.
    #[must_use]
    pub fn may_channel(&self, verb: Verbs, channel: &[u8], is_pattern: bool) -> bool {
        let speaks = |rule: &&NameRule| {
            rule.verbs.has(verb)
                && (*rule.pattern == *b"*"
                    || if is_pattern {
                        *rule.pattern == *channel
                    } else {
                        quorate_calls::matches(&rule.pattern, channel)
                    })
        };
        // What a denied pattern shares with another one is not worked out: any denial but of the whole forbids patterns that are not its own.
        let denies = |rule: &&NameRule| rule.verbs.has(verb) && (is_pattern || speaks(rule));
        let rules = || self.user.names.iter().filter(|rule| rule.verbs.of_channels());
        (self.granted.root || rules().filter(|rule| rule.allow).any(|rule| speaks(&rule)))
            && !rules().filter(|rule| !rule.allow).any(|rule| denies(&rule))
    }
}

/// Whether a rule speaks of a keyspace; what the server keeps for itself shows what is in the default one.
fn in_space(rule: &NameRule, space: Keyspace) -> bool {
    let space = if space.is_internal() { Keyspace::DEFAULT } else { space };
    rule.space.is_none_or(|of| of == space)
}

/// Whether roles speak of a keyspace.
fn is_default(space: Keyspace) -> bool {
    space.is_internal() || space == Keyspace::DEFAULT
}

/// The part of a pattern before its first special byte, and whether only a star follows.
fn literal(pattern: &[u8]) -> (&[u8], bool) {
    let special = pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    special.map_or((pattern, false), |at| (&pattern[..at], pattern[at..] == *b"*"))
}

/// Whether a pattern matches every key of a range: it is a prefix of them all, or the one key there is.
fn covers(pattern: &[u8], range: &KeyRange) -> bool {
    if is_single(range) {
        return quorate_calls::matches(pattern, &range.start.name);
    }
    let (prefix, open) = literal(pattern);
    if !open {
        return false;
    }
    let whole = KeyRange::prefix(Key { space: range.start.space, name: Blob::copy_from(prefix) });
    let ends_in = match (&whole.end, &range.end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(whole), Some(end)) => end <= whole,
    };
    range.start.name >= whole.start.name && ends_in
}

/// Whether a pattern could match a key of a range; sometimes said where it could not, never the other way round.
fn touches(pattern: &[u8], range: &KeyRange) -> bool {
    if is_single(range) {
        return quorate_calls::matches(pattern, &range.start.name);
    }
    let (prefix, _) = literal(pattern);
    let whole = KeyRange::prefix(Key { space: range.start.space, name: Blob::copy_from(prefix) });
    range.end.as_ref().is_none_or(|end| whole.start.name < *end)
        && whole.end.as_ref().is_none_or(|end| range.start.name < *end)
}

fn is_single(range: &KeyRange) -> bool {
    let start = range.start.name.as_slice();
    range
        .end
        .as_ref()
        .is_some_and(|end| end.len() == start.len() + 1 && end.starts_with(start) && end.ends_with(&[0]))
}

impl Rights {
    /// Whether nothing is refused.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        match self {
            Self::Everything => true,
            Self::User(access) => access.unbound,
            Self::Gone(_) => false,
        }
    }

    /// The user, if it is bound by rules.
    fn bound(&self) -> Result<Option<&Access>, Denied> {
        match self {
            Self::Everything => Ok(None),
            Self::User(access) if access.unbound => Ok(None),
            Self::User(access) if access.user.enabled => Ok(Some(access)),
            Self::User(access) => Err(Denied::Gone { user: access.name.clone() }),
            Self::Gone(user) => Err(Denied::Gone { user: user.clone() }),
        }
    }

    /// Whether the user may still act at all.
    ///
    /// # Errors
    /// [`Denied::Gone`].
    pub fn alive(&self) -> Result<(), Denied> {
        self.bound().map(|_| ())
    }

    /// Whether a command may be run.
    ///
    /// # Errors
    /// [`Denied::Command`], [`Denied::Gone`].
    pub fn command(&self, name: &str) -> Result<(), Denied> {
        match self.bound()? {
            Some(access) if !access.may_run(name.as_bytes()) => {
                Err(Denied::Command { user: access.name.clone(), command: name.into() })
            }
            _ => Ok(()),
        }
    }

    /// Whether something may be done to a name.
    ///
    /// # Errors
    /// [`Denied::Name`], [`Denied::Gone`].
    pub fn name(&self, verbs: Verbs, space: Keyspace, name: &Blob) -> Result<(), Denied> {
        match self.bound()? {
            Some(access) if !access.may(verbs, space, name) => Err(denied(access, verbs, space, name)),
            _ => Ok(()),
        }
    }

    /// Whether something may be done to every key of a range.
    ///
    /// # Errors
    /// [`Denied::Name`] of its start, [`Denied::Gone`].
    pub fn range(&self, verbs: Verbs, range: &KeyRange) -> Result<(), Denied> {
        match self.bound()? {
            Some(access) if !access.may_range(verbs, range) => {
                Err(denied(access, verbs, range.start.space, &range.start.name))
            }
            _ => Ok(()),
        }
    }

    /// Whether something may be done to all names there are.
    ///
    /// # Errors
    /// [`Denied::Name`] of the empty name, [`Denied::Gone`].
    pub fn everything(&self, verbs: Verbs) -> Result<(), Denied> {
        match self.bound()? {
            Some(access) if !access.may_everything(verbs) => {
                Err(denied(access, verbs, Keyspace::DEFAULT, &Blob::EMPTY))
            }
            _ => Ok(()),
        }
    }

    /// Whether a channel may be published to or listened to.
    ///
    /// # Errors
    /// [`Denied::Channel`], [`Denied::Gone`].
    pub fn channel(&self, verbs: Verbs, channel: &Blob, is_pattern: bool) -> Result<(), Denied> {
        match self.bound()? {
            Some(access) if !access.may_channel(verbs, channel, is_pattern) => {
                Err(Denied::Channel { user: access.name.clone(), verbs, channel: channel.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether a call may be made, and done to its keys what it does to them.
    ///
    /// # Errors
    /// What is not allowed.
    pub fn call(&self, spec: &Spec, space: Keyspace, words: &[Blob]) -> Result<(), Denied> {
        let Some(access) = self.bound()? else { return Ok(()) };
        self.command(spec.name)?;
        let verbs = |done: u8| {
            let of = |bit, verb| if done & bit == bit { verb } else { Verbs::NONE };
            of(READS, Verbs::READ).and(of(WRITES, Verbs::WRITE))
        };
        match spec.name {
            "publish" | "spublish" if words.len() > 1 => {
                return self.channel(Verbs::PUBLISH, &words[1], false);
            }
            "flushall" | "swapdb" => return self.everything(Verbs::WRITE),
            "flushdb" => {
                return self
                    .range(Verbs::WRITE, &KeyRange { start: Key { space, name: Blob::EMPTY }, end: None });
            }
            // Patterns that name other keys by what the elements say.
            "sort" | "sort_ro" if sorts_by_other_keys(words) => self.everything(Verbs::READ)?,
            _ => {}
        }
        let Some(touched) = permissions::touches(spec, words) else {
            // Its handler refuses such words, in all likelihood; if not, it touches who knows what.
            return if access.may_everything(Verbs::READ.and(Verbs::WRITE)) {
                Ok(())
            } else {
                Err(denied(access, Verbs::NONE, space, &Blob::EMPTY))
            };
        };
        for (number, (place, done)) in touched.into_iter().enumerate() {
            let space = if number == 0 { space } else { other_space(spec, words).unwrap_or(space) };
            self.name(verbs(done), space, &words[place])?;
        }
        if spec.name == "move"
            && let Some(space) = other_space(spec, words)
        {
            self.name(Verbs::WRITE, space, &words[1])?;
        }
        Ok(())
    }
}

fn sorts_by_other_keys(words: &[Blob]) -> bool {
    let options = words.get(2..).unwrap_or_default();
    options.windows(2).any(|pair| {
        let (option, pattern) = (&pair[0], &pair[1]);
        (option.eq_ignore_ascii_case(b"by") && pattern.contains(&b'*'))
            || (option.eq_ignore_ascii_case(b"get") && **pattern != *b"#")
    })
}

fn denied(access: &Access, verbs: Verbs, space: Keyspace, name: &Blob) -> Denied {
    Denied::Name { user: access.name.clone(), verbs, name: Key { space, name: name.clone() } }
}

/// The keyspace that MOVE and COPY … DB name.
fn other_space(spec: &Spec, words: &[Blob]) -> Option<Keyspace> {
    let word = match spec.name {
        "move" => words.get(2)?,
        "copy" => {
            let at = (3..words.len()).find(|at| words[*at].eq_ignore_ascii_case(b"db"))?;
            words.get(at + 1)?
        }
        _ => return None,
    };
    word.as_text()?.parse().ok().map(Keyspace)
}

impl Machine {
    /// What a principal may do now.
    #[must_use]
    pub fn rights(&self, principal: &Principal) -> Rights {
        match principal.user() {
            None => Rights::Everything,
            Some(name) => match self.users.get(name) {
                Some(access) => Rights::User(Arc::clone(access)),
                None if *name == *DEFAULT_USER.as_bytes() => Rights::Everything,
                None => Rights::Gone(Blob::copy_from(name)),
            },
        }
    }

    /// A user; `default` is there from the beginning.
    #[must_use]
    pub fn user(&self, name: &[u8]) -> Option<Arc<Access>> {
        match self.users.get(name) {
            Some(access) => Some(Arc::clone(access)),
            None if *name == *DEFAULT_USER.as_bytes() => Some(Arc::new(Access::of(
                &DEFAULT_USER.into(),
                User::open_door(),
                LogIndex::ZERO,
                &Table::default(),
            ))),
            None => None,
        }
    }

    /// Names of all users, in order.
    #[must_use]
    pub fn user_names(&self) -> Vec<Blob> {
        let mut names: Vec<Blob> = self.users.accesses.keys().cloned().collect();
        if self.users.get(DEFAULT_USER.as_bytes()).is_none() {
            names.push(DEFAULT_USER.into());
            names.sort_unstable();
        }
        names
    }

    /// Whose bearer token has this hash.
    #[must_use]
    pub fn user_of_token(&self, hash: &Digest) -> Option<&Blob> {
        self.users.tokens.get(hash).or_else(|| self.token(hash).map(|token| &token.user))
    }

    /// Whether everybody enters without saying who it is.
    #[must_use]
    pub fn door_is_open(&self) -> bool {
        self.users.get(DEFAULT_USER.as_bytes()).is_none_or(|access| access.user.enabled && access.user.nopass)
    }

    /// The entry of the last change of users, or a later one: while it stays, rights that were asked for stay too.
    #[must_use]
    pub fn users_changed(&self) -> LogIndex {
        self.users.changed
    }

    /// Why a command will be refused whatever the state is otherwise: its sender may not do it. In mode `each` an operation that is not
    /// allowed is only its own result, so such a commit is forbidden only to who may do nothing at all.
    #[must_use]
    pub fn forbids(&self, command: &Command) -> Option<Refusal> {
        let rights = self.rights(&command.principal);
        if rights.is_everything() {
            return None;
        }
        let CommandBody::Commit { commit } = &command.body else {
            return self.body_allowed(&rights, &command.body).err().map(|denied| Refusal::Denied { denied });
        };
        let refuse = |denied| Some(Refusal::Denied { denied });
        if commit.mode == Mode::Foreseen {
            return self.foreseen_allowed(&rights, commit).err().and_then(refuse);
        }
        if let Err(denied) = self.guards_allowed(&rights, commit) {
            return refuse(denied);
        }
        let may_nothing = matches!(&rights, Rights::User(access) if access.commands.is_empty());
        // Where there is another list, it may be the one that runs.
        if commit.otherwise.is_some() || (commit.mode != Mode::Atomic && !may_nothing) {
            return None;
        }
        commit.then.iter().find_map(|op| self.op_allowed(&rights, op).err()).and_then(refuse)
    }

    /// Whether a command that is no commit is allowed.
    pub(crate) fn body_allowed(&self, rights: &Rights, body: &CommandBody) -> Result<(), Denied> {
        match body {
            CommandBody::Commit { .. } => Ok(()), // Operation by operation.
            CommandBody::Wait { wait } => {
                rights.command("q.lock")?;
                rights.name(Verbs::WRITE, Keyspace::DEFAULT, &wait.lock.0)
            }
            CommandBody::CancelWait { lock, .. } => {
                rights.command("q.unlock")?;
                rights.name(Verbs::WRITE, Keyspace::DEFAULT, &lock.0)
            }
            CommandBody::KeepAlive { .. } => rights.command("q.keep"),
            CommandBody::Resolve { .. } => rights.command("q.idempotent"),
            CommandBody::Compact { .. } => rights.command("q.compact"),
            CommandBody::Denied { .. }
            | CommandBody::RaiseRevision { .. }
            | CommandBody::RaiseVersion { .. }
            | CommandBody::Evict { .. }
            | CommandBody::Alarm { .. }
            | CommandBody::Configure { .. } => rights.command("q.configure"),
            CommandBody::LimitMemory { .. } => rights.command("config|set"),
            CommandBody::ChangeUser { .. } => rights.command("acl|setuser"),
            CommandBody::RemoveUsers { .. } => rights.command("acl|deluser"),
            CommandBody::ChangeAccess { change: AccessChange::Enter { .. }, .. } => {
                rights.command("q.configure")
            }
            CommandBody::ChangeAccess { .. } => rights.command("acl|setuser"),
        }
    }

    /// Whether the guards of a commit are allowed.
    pub(crate) fn guards_allowed(&self, rights: &Rights, commit: &Commit) -> Result<(), Denied> {
        if rights.is_everything() {
            return Ok(());
        }
        rights.alive()?;
        if commit.idempotency.is_some() {
            rights.command("q.idempotent")?;
        }
        commit.guards.iter().try_for_each(|guard| guard_allowed(rights, guard))
    }

    /// Whether a commit whose branches are foreseen is allowed: all of it, whichever lists run, so that nobody learns by a comparison what
    /// would have been refused otherwise.
    pub(crate) fn foreseen_allowed(&self, rights: &Rights, commit: &Commit) -> Result<(), Denied> {
        if rights.is_everything() {
            return Ok(());
        }
        self.guards_allowed(rights, commit)?;
        commit.then.iter().chain(commit.otherwise.iter().flatten()).try_for_each(|op| match op {
            Op::Nested { commit } => self.foreseen_allowed(rights, commit),
            op => self.op_allowed(rights, op),
        })
    }

    /// Whether an operation is allowed.
    pub(crate) fn op_allowed(&self, rights: &Rights, op: &Op) -> Result<(), Denied> {
        if rights.is_everything() {
            return Ok(());
        }
        if let Op::LeaseRevoke { lease } = op {
            // Whatever hangs on it ends with it.
            rights.command("q.unlock")?;
            return self.lease_allowed(rights, Verbs::WRITE, *lease);
        }
        if let Op::Write { lease: Some(lease), .. } = op {
            // Who may not end a lease may not hang anything on it: it could not be taken off again.
            self.lease_allowed(rights, Verbs::WRITE, *lease)?;
        }
        if let Op::LeaseInfo { .. } = op {
            return rights.command("q.info");
        }
        if let Op::Nested { commit } = op {
            self.guards_allowed(rights, commit)?;
            // Its own operations are asked for when it runs.
            return Ok(());
        }
        op_named(rights, op)
    }

    /// Whether an operation would be allowed now.
    ///
    /// # Errors
    /// [`Denied`] names what may not be done.
    pub fn may(&self, principal: &Principal, op: &Op) -> Result<(), Denied> {
        self.op_allowed(&self.rights(principal), op)
    }

    /// Whether something may be done to everything that hangs on a lease.
    ///
    /// # Errors
    /// [`Denied`] names the first that may not.
    pub fn lease_allowed(&self, rights: &Rights, verbs: Verbs, lease: LeaseId) -> Result<(), Denied> {
        if rights.is_everything() {
            return Ok(());
        }
        self.keys.keys_of(lease).iter().try_for_each(|key| {
            // A lock shows as a row under its own name.
            rights.name(verbs, key.space, &key.name)
        })?;
        if let Some(group) = self.members.group_of(lease).or_else(|| self.consumers.group_of(lease)) {
            rights.name(verbs, Keyspace::DEFAULT, &group.0)?;
        }
        let (holds, waits) = self.locks.of_lease(lease);
        let locks = holds.into_iter().map(|(lock, _)| lock).chain(waits.into_iter().map(|(lock, _)| lock));
        locks.into_iter().try_for_each(|lock| rights.name(verbs, Keyspace::DEFAULT, &lock.0))
    }

    /// Executes a change of a user.
    pub(crate) fn change_user(
        &mut self,
        name: &Blob,
        changes: &[UserChange],
        may_lock_out: bool,
        now: &Now,
    ) -> Outcome {
        let before = self.user(name);
        let mut user = before.as_ref().map(|access| access.user.clone()).unwrap_or_default();
        changes.iter().for_each(|change| user.change(change));
        if user.longest() > RULES_MAX {
            let (what, found) = ("rules or credentials of a user".to_owned(), user.longest() as u64);
            let error = OpError::Range { what, found, min: 0, max: RULES_MAX as u64 };
            return Outcome::Refused { refusal: Refusal::Command { error } };
        }
        if !may_lock_out && !self.somebody_manages(|other| (other == name).then_some(Some(&user))) {
            return Outcome::Refused { refusal: Refusal::LockOut {} };
        }
        let created = before.map_or(now.index, |access| access.created);
        let created = if created == LogIndex::ZERO { now.index } else { created };
        self.users.set(name, Some(Row { user, created }), now.index);
        Outcome::Done { revision: self.revision }
    }

    /// Executes a removal of users.
    pub(crate) fn remove_users(&mut self, names: &[Blob], may_lock_out: bool, now: &Now) -> Outcome {
        if !may_lock_out && !self.somebody_manages(|other| names.contains(other).then_some(None)) {
            return Outcome::Refused { refusal: Refusal::LockOut {} };
        }
        let mut count = 0;
        for name in names {
            if **name == *DEFAULT_USER.as_bytes() {
                // Without a row it would be the open door.
                self.users.set(name, Some(Row { user: User::default(), created: now.index }), now.index);
                count += 1;
            } else if self.users.get(name).is_some() {
                self.users.set(name, None, now.index);
                count += 1;
            }
        }
        let results = vec![OpResult::Deleted { count, prev: Vec::new() }];
        Outcome::Committed {
            committed: Committed { revision: self.revision, results, ..Committed::default() },
        }
    }

    /// Whether somebody could enter and manage users, if some users were as `instead` says.
    pub(crate) fn somebody_manages<'a>(&self, instead: impl Fn(&Blob) -> Option<Option<&'a User>>) -> bool {
        let manages = |name: &Blob, user: &User| {
            user.can_enter()
                && Access::of(name, user.clone(), LogIndex::ZERO, &self.users.roles).may_run(b"acl|setuser")
        };
        let names = self.user_names();
        names.iter().any(|name| match instead(name) {
            Some(user) => user.is_some_and(|user| manages(name, user)),
            None => self.user(name).is_some_and(|access| manages(name, &access.user)),
        })
    }
}

fn guard_allowed(rights: &Rights, guard: &Guard) -> Result<(), Denied> {
    let default = Keyspace::DEFAULT;
    match guard {
        Guard::Key { key, .. } => {
            rights.command("q.version")?;
            rights.name(Verbs::READ, key.space, &key.name)
        }
        Guard::Value { key, .. } => {
            rights.command("get")?;
            rights.name(Verbs::READ, key.space, &key.name)
        }
        Guard::Keys { range, .. } | Guard::Values { range, .. } => {
            rights.command("q.range")?;
            rights.range(Verbs::READ, range)
        }
        Guard::RangeUnchanged { range, .. } => {
            rights.command("watch")?;
            rights.range(Verbs::NONE, range)
        }
        Guard::Fence { lock, .. } | Guard::Leadership { election: lock, .. } => {
            rights.command("q.fence")?;
            rights.name(Verbs::NONE, default, &lock.0)
        }
        Guard::Limit { name, .. } | Guard::Slots { name, .. } => {
            rights.command("q.limit")?;
            rights.name(Verbs::WRITE, default, &name.0)
        }
        Guard::StreamAt { stream, .. } => {
            rights.command("xlen")?;
            rights.name(Verbs::READ, stream.space, &stream.name)
        }
        Guard::NotAfter { .. } => Ok(()),
    }
}

/// The command that an operation stands for, and what it does to its names.
fn op_named(rights: &Rights, op: &Op) -> Result<(), Denied> {
    let key = |command: &str, verbs: Verbs, key: &Key| {
        rights.command(command)?;
        rights.name(verbs, key.space, &key.name)
    };
    let name = |command: &str, verbs: Verbs, name: &Blob| {
        rights.command(command)?;
        rights.name(verbs, Keyspace::DEFAULT, name)
    };
    let shown = |prev: &bool| if *prev { Verbs::READ.and(Verbs::WRITE) } else { Verbs::WRITE };
    let both = Verbs::READ.and(Verbs::WRITE);
    match op {
        Op::Get { key: of } => key("get", Verbs::READ, of),
        Op::Range { read } => {
            rights.command("q.range")?;
            rights.range(Verbs::READ, &read.range)
        }
        Op::Select { select } if is_single(&select.range) => key("get", Verbs::READ, &select.range.start),
        Op::Select { select } => {
            rights.command("q.range")?;
            rights.range(Verbs::READ, &select.range)
        }
        Op::Write { key: of, prev, .. } => key("set", shown(prev), of),
        Op::Put { key: of, prev, .. } => key("set", shown(prev), of),
        Op::Delete { key: of, prev } => key("del", shown(prev), of),
        Op::DeleteRange { range, prev } | Op::Erase { range, prev } => {
            rights.command("del")?;
            rights.range(shown(prev), range)
        }
        Op::Increment { key: of, .. } => key("incrby", both, of),
        Op::CreateStream { stream, .. } | Op::AlterStream { stream, .. } | Op::DeleteStream { stream } => {
            key("q.stream", Verbs::WRITE, stream)
        }
        Op::Append { append } => key("xadd", Verbs::WRITE, &append.stream),
        Op::Produce { produce } => match produce.append() {
            Some(append) => {
                key("xadd", Verbs::WRITE, &append.stream)?;
                produce.name().map_or(Ok(()), |of| name("xadd", Verbs::WRITE, of))
            }
            None => {
                rights.command("xadd")?;
                produce.name().map_or(Ok(()), |of| name("xadd", Verbs::WRITE, of))?;
                match &**produce {
                    quorate_types::Produce::Enlist { parts, .. } => {
                        parts.iter().try_for_each(|(stream, _)| key("xadd", Verbs::WRITE, stream))
                    }
                    quorate_types::Produce::HoldOffsets { commit, .. } => {
                        let mut streams = commit.offsets.iter();
                        streams.try_for_each(|of| key("xreadgroup", Verbs::READ, &of.stream))?;
                        name("xack", Verbs::WRITE, &commit.group.0)
                    }
                    _ => Ok(()),
                }
            }
        },
        Op::Trim { stream, .. } => key("xtrim", Verbs::WRITE, stream),
        Op::StreamInfo { stream } => key("xinfo|stream", Verbs::READ, stream),
        Op::CreateGroup { stream, settings, .. } => {
            key("xgroup|create", Verbs::WRITE, stream)?;
            match &settings.mode {
                quorate_types::GroupMode::Shared { dead_letter: Some(letters), .. } => {
                    key("xadd", Verbs::WRITE, letters)
                }
                _ => Ok(()),
            }
        }
        Op::DeleteGroup { stream, .. } => key("xgroup|destroy", Verbs::WRITE, stream),
        Op::CursorCommit { stream, .. } => key("xack", Verbs::WRITE, stream),
        Op::Take { stream, .. } => key("xreadgroup", Verbs::READ, stream),
        Op::Ack { stream, .. } => key("xack", Verbs::WRITE, stream),
        Op::Nack { stream, .. } | Op::Extend { stream, .. } => key("xclaim", Verbs::WRITE, stream),
        Op::LeaseGrant { .. } => rights.command("q.lock"),
        Op::LeaseKeepAlive { .. } => rights.command("q.keep"),
        Op::LeaseRevoke { .. } | Op::LeaseInfo { .. } | Op::Nested { .. } => Ok(()), // The machine has to be asked.
        Op::Acquire { lock, .. }
        | Op::Campaign { election: lock, .. }
        | Op::Proclaim { election: lock, .. } => name("q.lock", Verbs::WRITE, &lock.0),
        Op::Release { lock, .. } | Op::Resign { election: lock, .. } => {
            name("q.unlock", Verbs::WRITE, &lock.0)
        }
        Op::LockInfo { lock } => name("q.info", Verbs::READ, &lock.0),
        Op::Schedule { task, on_refused, .. } => {
            if let quorate_types::OnRefused::DeadLetter { letter } = on_refused {
                key("xadd", Verbs::WRITE, &letter.stream)?;
            }
            name("q.after", Verbs::WRITE, &task.0)
        }
        Op::Cancel { task } => name("q.after", Verbs::WRITE, &task.0),
        Op::Register { service, .. } | Op::Deregister { service, .. } => {
            name("q.register", Verbs::WRITE, &service.0)
        }
        Op::Claim { .. } | Op::Complete { .. } => rights.command("q.idempotent"),
        Op::FreeSlot { name: of, .. } => name("q.limit", Verbs::WRITE, &of.0),
        Op::LimitPeek { name: of, .. } => name("q.info", Verbs::READ, &of.0),
        // Its streams are asked for as reads: what is kept says only what was read.
        Op::CommitOffsets { commit } => {
            let mut streams = commit.offsets.iter();
            streams.try_for_each(|of| key("xreadgroup", Verbs::READ, &of.stream))?;
            name("xack", Verbs::WRITE, &commit.group.0)
        }
        Op::Member { change } => match &**change {
            MemberChange::Delete { group } => name("xgroup|destroy", Verbs::WRITE, &group.0),
            MemberChange::Forget { group, partitions } => {
                partitions.iter().try_for_each(|(stream, _)| key("xreadgroup", Verbs::READ, stream))?;
                name("xgroup|destroy", Verbs::WRITE, &group.0)
            }
            // Who reads is given places in streams, so it has to be allowed to read them.
            MemberChange::Beat { beat } => {
                let mut named = [&beat.names, &beat.matched].into_iter().flatten().flatten();
                let of = |name: &Blob| Key { space: Keyspace::DEFAULT, name: name.clone() };
                named.try_for_each(|stream| key("xreadgroup", Verbs::READ, &of(stream)))?;
                name("xreadgroup", Verbs::WRITE, &beat.group.0)
            }
            MemberChange::Join { .. }
            | MemberChange::Sync { .. }
            | MemberChange::Leave { .. }
            | MemberChange::Part { .. } => name("xreadgroup", Verbs::WRITE, &change.group().0),
        },
        Op::Call { space, words, record } => match quorate_calls::check(words) {
            Ok(spec) => rights.call(spec, *space, words),
            Err(_) if record.is_some() && words.len() > 1 => {
                key("xadd", Verbs::WRITE, &Key { space: *space, name: words[1].clone() })
            }
            Err(_) => rights.alive(), // There is no such command: its refusal says so.
        },
    }
}

/// As a call is refused.
pub(crate) fn refused(denied: &Denied) -> Error {
    Error::reply(noperm(denied))
}
