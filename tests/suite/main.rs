//! The suite: real guests on the real command, attacked and checked from outside.

mod audit;
mod cuda;
mod deaths;
mod guests;
mod hostile;
mod lock_file;
mod operators;
mod policy;
mod rpc;
mod vfio;
mod vfio_user;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // Guests share two cores with the daemon: two at a time keeps their deadlines honest.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let trials = [
        audit::tests(),
        cuda::tests(),
        deaths::tests(),
        guests::tests(),
        hostile::tests(),
        lock_file::tests(),
        operators::tests(),
        policy::tests(),
        rpc::tests(),
        vfio::tests(),
        vfio_user::tests(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
