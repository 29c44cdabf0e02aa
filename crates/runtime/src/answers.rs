//! How answers get to those who wait.
//!
//! A commit may answer a hundred waiting tasks at once. To wake a task of another thread's runtime costs a system call each, and they would be
//! made while the partition is locked, with the first of the woken already asking for that lock. So what one round answers goes to the
//! runtime whole: one message to one task there, which wakes the others as its neighbours, for nothing.
//!
//! Invariant: a ticket goes through a runtime only if it was made there by somebody who awaits it. A runtime that nobody runs holds up its
//! own tasks, and nobody else.
//! Called by: `driver` and `replica` (answers), `handle` (tickets).

use quorate_node::Reply;
use tokio::runtime::{Handle, Id};
use tokio::sync::{mpsc, oneshot};

/// Whoever waits for a reply.
pub(crate) struct Ticket {
    send: oneshot::Sender<Reply>,
    /// Made by a task of the runtime that answers go to together.
    together: bool,
}

impl Ticket {
    /// For whoever waits on a thread of its own.
    pub(crate) fn alone() -> (Self, oneshot::Receiver<Reply>) {
        let (send, receive) = oneshot::channel();
        (Self { send, together: false }, receive)
    }

    /// Answers it at once. Whoever asked may have gone away.
    pub(crate) fn answer(self, reply: Reply) {
        let _ = self.send.send(reply);
    }
}

type Batch = Vec<(Ticket, Reply)>;

/// The runtime that answers go to together: the first that asks, and another once that has ended.
#[derive(Default)]
pub(crate) struct Answers {
    runtime: Option<(Id, mpsc::UnboundedSender<Batch>)>,
}

impl Answers {
    /// For a task that awaits its reply.
    pub(crate) fn ticket(&mut self) -> (Ticket, oneshot::Receiver<Reply>) {
        let (mut ticket, receive) = Ticket::alone();
        ticket.together = Handle::try_current().is_ok_and(|runtime| self.go_to(&runtime));
        (ticket, receive)
    }

    fn go_to(&mut self, runtime: &Handle) -> bool {
        if let Some((id, batches)) = &self.runtime
            && !batches.is_closed()
        {
            return *id == runtime.id();
        }
        let (send, mut batches) = mpsc::unbounded_channel::<Batch>();
        runtime.spawn(async move {
            while let Some(batch) = batches.recv().await {
                each(batch);
            }
        });
        self.runtime = Some((runtime.id(), send));
        true
    }

    /// Gives everybody the answer that is ready.
    pub(crate) fn give(&self, replies: impl ExactSizeIterator<Item = (Ticket, Reply)>) {
        let elsewhere = |id: &Id| Handle::try_current().map_or(true, |here| here.id() != *id);
        match &self.runtime {
            Some((id, batches)) if replies.len() > 1 && elsewhere(id) => {
                let (together, alone): (Batch, Batch) = replies.partition(|(ticket, _)| ticket.together);
                each(alone);
                if let Err(ended) = batches.send(together) {
                    each(ended.0);
                }
            }
            _ => each(replies),
        }
    }
}

/// Answers each at once.
pub(crate) fn each(replies: impl IntoIterator<Item = (Ticket, Reply)>) {
    for (ticket, reply) in replies {
        ticket.answer(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn replies(tickets: Vec<Ticket>) -> impl ExactSizeIterator<Item = (Ticket, Reply)> {
        tickets.into_iter().map(|ticket| (ticket, Reply::Changed))
    }

    #[test]
    fn a_runtime_that_nobody_runs_holds_up_its_own_tasks_only() {
        let (first, second) = (Builder::new_current_thread().build(), Builder::new_current_thread().build());
        let (first, second) = (first.expect("a runtime"), second.expect("a runtime"));
        let mut answers = Answers::default();
        let (mut waiting, mut others) = (Vec::new(), Vec::new());
        let mut tickets = Vec::new();
        for _ in 0..3 {
            for (runtime, kept) in [(&first, &mut waiting), (&second, &mut others)] {
                let _inside = runtime.enter();
                let (ticket, receive) = answers.ticket();
                tickets.push(ticket);
                kept.push(receive);
            }
            let (ticket, receive) = Ticket::alone();
            tickets.push(ticket);
            others.push(receive);
        }
        answers.give(replies(tickets));
        assert!(others.iter_mut().all(|other| matches!(other.try_recv(), Ok(Reply::Changed))));
        assert!(waiting.iter_mut().all(|task| task.try_recv().is_err()), "they wait for their runtime");
        first.block_on(async {
            for task in waiting {
                assert!(matches!(task.await, Ok(Reply::Changed)));
            }
        });
    }

    #[test]
    fn nobody_waits_for_a_runtime_that_has_ended() {
        let mut answers = Answers::default();
        let ask = |answers: &mut Answers, runtime: &tokio::runtime::Runtime| {
            let _inside = runtime.enter();
            answers.ticket()
        };
        let ended = Builder::new_current_thread().build().expect("a runtime");
        let (mut tickets, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (ticket, receive) = ask(&mut answers, &ended);
            tickets.push(ticket);
            waiting.push(receive);
        }
        drop(ended);
        answers.give(replies(tickets));
        assert!(waiting.iter_mut().all(|other| matches!(other.try_recv(), Ok(Reply::Changed))));

        let next = Builder::new_current_thread().build().expect("a runtime");
        let (ticket, _receive) = ask(&mut answers, &next);
        assert!(ticket.together, "another takes its place");
    }
}
