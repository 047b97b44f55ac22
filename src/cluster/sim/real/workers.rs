//! Virtual workers: what runs the tasks of a node.
//!
//! A node has a pool of workers and any number of threads. The workers do what those of tokio do. Each
//! has a run queue, from which the others steal, and a slot for the task that it runs next, which
//! nobody else can take: a task that is woken *by a task of the pool* goes into the slot of that
//! worker, and the one that was there goes to the end of the run queue. What is woken from outside
//! (a timer, a response) goes to the queue that all workers share. After three tasks in a row out of
//! its slot a worker takes from the queues first.
//!
//! A thread runs one task and nothing else: a thread of the user, or the driver's own.
//!
//! Nothing else happens while a task is polled, unless the process is suspended when it reads its
//! clock; after a poll the worker is busy for some microseconds. A task that blocks its worker ([`World::block`]) keeps it busy
//! for as long as that takes, with whatever is in the slot.

use super::world::{US, World};
use crate::cluster::process::virtual_child;
use crate::cluster::sim::world::Moment;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// A task, by its index in the run.
pub(super) type TaskId = usize;

/// How often in a row a worker runs what is in its slot, as in tokio.
const MAX_FROM_SLOT: u32 = 3;

/// How long a worker or a thread takes to wake up, and to poll a task.
const WAKE_UP: [Moment; 2] = [US, 50 * US];
const POLL: [Moment; 2] = [US, 20 * US];

/// The name of the task of a driver.
pub(super) const DRIVER: &str = "the driver";

type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All workers of all nodes, and all tasks.
#[derive(Default)]
pub(super) struct Workers {
    tasks: Vec<Task>,
    workers: Vec<Worker>,
    /// By the index of the node.
    pools: Vec<Pool>,
    /// What is being polled.
    running: Option<Running>,
    /// For how long the task that is being polled blocks its worker.
    blocks_for: Moment,
}

/// A worker polls a task.
#[derive(Clone, Copy)]
pub(super) struct Running {
    worker: usize,
    /// The call of an operator ([`World::as_operator`]).
    is_operator: bool,
}

struct Task {
    node: usize,
    name: &'static str,
    /// The thread that runs it; `None` if the pool does.
    thread: Option<usize>,
    /// `None` while it is being polled, and once it has ended.
    future: Option<TaskFuture>,
    state: TaskState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskState {
    Asleep,
    /// It is in a slot or a queue.
    Ready,
    Running {
        is_woken: bool,
    },
    Ended,
}

#[derive(Default)]
struct Worker {
    node: usize,
    is_thread: bool,
    /// The task that it runs next.
    slot: Option<TaskId>,
    /// How many it has run out of its slot since it has taken one from a queue.
    from_slot: u32,
    queue: VecDeque<TaskId>,
    /// It is awake: an event that runs it is to come.
    is_awake: bool,
}

#[derive(Default)]
struct Pool {
    workers: Vec<usize>,
    /// What was woken from outside.
    shared: VecDeque<TaskId>,
    /// The process is suspended, or dead.
    is_stopped: bool,
}

struct TaskWaker {
    world: Arc<World>,
    task: TaskId,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if virtual_child::is_running() {
            self.world.violate(format!("a child wakes task {}", self.task));
        }
        let mut workers = self.world.workers.lock();
        let state = &mut workers.tasks[self.task].state;
        match *state {
            TaskState::Asleep => {
                *state = TaskState::Ready;
                workers.enqueue(&self.world, self.task);
            }
            TaskState::Running { .. } => *state = TaskState::Running { is_woken: true },
            TaskState::Ready | TaskState::Ended => {}
        }
    }
}

impl Workers {
    /// Puts a task where it is run from, and wakes up who runs it.
    fn enqueue(&mut self, world: &World, task: TaskId) {
        let Task { node, thread, .. } = self.tasks[task];
        if let Some(thread) = thread {
            self.workers[thread].queue.push_back(task);
            return self.wake_up(world, thread);
        }
        let here = self.running.map(|running| running.worker).filter(|worker| {
            self.workers[*worker].node == node && !self.workers[*worker].is_thread
        });
        let Some(here) = here else {
            self.pools[node].shared.push_back(task);
            return self.wake_up_any(world, node);
        };
        if let Some(before) = self.workers[here].slot.replace(task) {
            self.workers[here].queue.push_back(before);
            self.wake_up_any(world, node);
        }
    }

    fn wake_up(&mut self, world: &World, worker: usize) {
        let Worker { node, is_awake, .. } = &mut self.workers[worker];
        if !self.pools[*node].is_stopped && !std::mem::replace(is_awake, true) {
            world.after(world.between(WAKE_UP), move |world| world.step(worker));
        }
    }

    /// Wakes up a worker of the pool that sleeps, if there is one.
    fn wake_up_any(&mut self, world: &World, node: usize) {
        let sleeps = |worker: &usize| !self.workers[*worker].is_awake;
        let asleep: Vec<_> = self.pools[node].workers.iter().copied().filter(sleeps).collect();
        if !asleep.is_empty() {
            self.wake_up(world, asleep[world.index(asleep.len())]);
        }
    }

    /// Takes the next task of a worker out of its slot or a queue.
    fn next(&mut self, world: &World, worker: usize) -> Option<TaskId> {
        let node = self.workers[worker].node;
        let this = &mut self.workers[worker];
        if this.is_thread {
            return this.queue.pop_front();
        }
        if this.from_slot >= MAX_FROM_SLOT
            && let Some(task) = this.slot.take()
        {
            this.queue.push_back(task);
        }
        if let Some(task) = this.slot.take() {
            this.from_slot += 1;
            return Some(task);
        }
        this.from_slot = 0;
        let own = this.queue.pop_front().or_else(|| self.pools[node].shared.pop_front());
        if own.is_some() {
            return own;
        }
        let others = self.pools[node].workers.clone();
        let first = world.index(others.len());
        let mut victims = others.iter().cycle().skip(first).take(others.len());
        victims.find_map(|victim| self.workers[*victim].queue.pop_front())
    }
}

impl World {
    /// Makes the workers of the next node.
    pub(super) fn add_pool(&self, workers: usize) {
        let mut all = self.workers.lock();
        let node = all.pools.len();
        let first = all.workers.len();
        all.workers.extend((0..workers).map(|_| Worker { node, ..Worker::default() }));
        all.pools.push(Pool { workers: (first..first + workers).collect(), ..Pool::default() });
    }

    /// Starts a task in the pool of a node.
    pub(super) fn spawn(
        &self,
        node: usize,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(node, name, None, Box::pin(future));
    }

    /// Starts a thread of a node, which runs this future.
    pub(super) fn spawn_thread(
        &self,
        node: usize,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut all = self.workers.lock();
        let thread = all.workers.len();
        all.workers.push(Worker { node, is_thread: true, ..Worker::default() });
        drop(all);
        self.start(node, name, Some(thread), Box::pin(future));
    }

    fn start(&self, node: usize, name: &'static str, thread: Option<usize>, future: TaskFuture) {
        let mut all = self.workers.lock();
        let task = all.tasks.len();
        all.tasks.push(Task { node, name, thread, future: Some(future), state: TaskState::Ready });
        all.enqueue(self, task);
    }

    /// A worker or a thread polls its next task, or goes to sleep.
    fn step(self: &Arc<Self>, worker: usize) {
        let mut all = self.workers.lock();
        let node = all.workers[worker].node;
        let task = if all.pools[node].is_stopped { None } else { all.next(self, worker) };
        let Some(task) = task else {
            all.workers[worker].is_awake = false;
            return;
        };
        all.tasks[task].state = TaskState::Running { is_woken: false };
        all.running = Some(Running { worker, is_operator: false });
        let (name, future) = (all.tasks[task].name, all.tasks[task].future.take());
        drop(all);
        self.record(format_args!("{node}: worker {worker} polls {name} (task {task})"));
        let mut future = future.expect("a task that was woken has not ended");
        let waker = Waker::from(Arc::new(TaskWaker { world: self.clone(), task }));
        let has_ended = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let left = if has_ended {
            drop(future);
            None
        } else {
            Some(future)
        };
        let mut all = self.workers.lock();
        all.running = None;
        let is_woken = all.tasks[task].state == TaskState::Running { is_woken: true };
        all.tasks[task].state = match (has_ended, is_woken) {
            (true, _) => TaskState::Ended,
            (false, true) => TaskState::Ready,
            (false, false) => TaskState::Asleep,
        };
        all.tasks[task].future = left;
        if !has_ended && is_woken {
            // It lets the others run first.
            all.workers[worker].queue.push_back(task);
            if !all.workers[worker].is_thread {
                all.wake_up_any(self, node);
            }
        }
        drop(all);
        self.check_return(node);
        let mut all = self.workers.lock();
        let busy = self.between(POLL) + std::mem::take(&mut all.blocks_for);
        self.after(busy, move |world| world.step(worker));
    }

    /// Whether a task of this node is being polled.
    pub(super) fn is_polling(&self, node: usize) -> bool {
        let all = self.workers.lock();
        all.running.is_some_and(|running| all.workers[running.worker].node == node)
    }

    /// Has a future of an operator polled: its requests are not those of the node's state machines.
    pub(super) async fn as_operator<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let set = |is| {
            if let Some(running) = &mut self.workers.lock().running {
                running.is_operator = is;
            }
        };
        poll_fn(|cx| {
            set(true);
            let polled = future.as_mut().poll(cx);
            set(false);
            polled
        })
        .await
    }

    /// Whether the future of an operator is being polled.
    pub(super) fn is_operator_polled(&self) -> bool {
        self.workers.lock().running.is_some_and(|running| running.is_operator)
    }

    /// Polls the driver of a node, unless that is being polled or has ended.
    pub(super) fn poll_driver(&self, node: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut all = self.workers.lock();
        let is_driver = |task: &Task| task.node == node && task.name == DRIVER;
        let Some(task) = all.tasks.iter().position(is_driver) else { return Poll::Pending };
        let Some(mut future) = all.tasks[task].future.take() else { return Poll::Pending };
        drop(all);
        let polled = future.as_mut().poll(cx);
        self.workers.lock().tasks[task].future = Some(future);
        polled
    }

    /// Others are polled in the middle of the present poll, until [`World::resume_poll`].
    pub(super) fn interrupt_poll(&self) -> Option<Running> {
        self.workers.lock().running.take()
    }

    pub(super) fn resume_poll(&self, poll: Option<Running>) {
        self.workers.lock().running = poll;
    }

    /// The task that calls this blocks its worker, as `std::thread::sleep` does. What was woken before
    /// may be in the slot of the worker.
    pub(super) async fn block(&self, time: Moment) {
        let mut has_blocked = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_blocked, true) {
                return Poll::Ready(());
            }
            self.workers.lock().blocks_for = time;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// The process of a node is suspended: nothing of it runs.
    pub(super) fn stop_workers(&self, node: usize) {
        self.workers.lock().pools[node].is_stopped = true;
    }

    pub(super) fn resume_workers(&self, node: usize) {
        let mut all = self.workers.lock();
        all.pools[node].is_stopped = false;
        for worker in 0..all.workers.len() {
            if all.workers[worker].node == node {
                all.wake_up(self, worker);
            }
        }
    }

    /// The process of a node dies. Its tasks are dropped, which nobody may notice: the caller sees to
    /// that.
    pub(super) fn drop_tasks(&self, node: usize) {
        let mut all = self.workers.lock();
        all.pools[node].is_stopped = true;
        let tasks = all.tasks.iter_mut().filter(|task| task.node == node);
        let futures: Vec<_> = tasks
            .filter_map(|task| {
                task.state = TaskState::Ended;
                task.future.take()
            })
            .collect();
        for worker in all.workers.iter_mut().filter(|worker| worker.node == node) {
            (worker.slot, worker.queue) = (None, VecDeque::new());
        }
        all.pools[node].shared.clear();
        drop(all);
        drop(futures);
    }
}
