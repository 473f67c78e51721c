// SPDX-License-Identifier: Apache-2.0
/*
 * See keeper.h. Pinned programs and maps outlive the agent on purpose, and an agent that ends cannot know whether a successor
 * follows or llmd is being removed from the node. A second process can: it is not replaced with the agents, and when it is ended
 * it looks for a while whether they are still there.
 *
 * It only tries the lock, and gives it back at once: an agent that starts in that moment waits for it.
 */
#include "agent/keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#include "agent/pins.h"
#include "lib/log.h"

enum { LOOK_MS = 500, BUSY_PERIODS = 3 };

/* Both are blocked from the first line of main() on. */
static void wait_for_signal(const char *pin_dir)
{
	sigset_t set;
	int signal;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	log_info("keeper waits", "pin_dir=%s", pin_dir);
	sigwait(&set, &signal);
	sigprocmask(SIG_UNBLOCK, &set, NULL); /* a second one ends at once */
}

int keeper_wait(const char *pin_dir, uint64_t quiet_ms)
{
	const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000 };
	uint64_t free_ms = 0, waited_ms = 0;

	wait_for_signal(pin_dir);
	log_info("keeper was told to end", "quiet_ms=%lu", (unsigned long)quiet_ms);
	while (free_ms < quiet_ms) {
		bool held = pins_held(pin_dir);

		free_ms = held ? 0 : free_ms + LOOK_MS;
		waited_ms += LOOK_MS;
		if (held && waited_ms >= BUSY_PERIODS * quiet_ms) {
			log_info("keeper leaves all as it is", "why=\"an agent runs\"");
			return -EBUSY;
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}
