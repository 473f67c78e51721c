# SPDX-License-Identifier: Apache-2.0
"""What the machine spends: CPU of the whole box, who else uses it, memory."""
import os
import time

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CPUS = os.cpu_count()


def _idle_s():
    """All processors. The kernel keeps idle time to the microsecond, busy time only by ticks: so this is what counts."""
    fields = open("/proc/stat").readline().split()
    return (int(fields[4]) + int(fields[5])) * TICK_S


def _stat(pid):
    """Parent, flags and CPU seconds of a process with its children that ended."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return int(fields[1]), int(fields[6]), sum(int(x) for x in fields[11:15]) * TICK_S


def processes():
    out = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                out[int(entry)] = _stat(entry)
            except OSError:
                pass
    return out


def tree(pid, table=None):
    """A process and all below it."""
    table = table or processes()
    found = {pid}
    for child in sorted(table):
        parent = child
        while parent in table and parent not in found:
            parent = table[parent][0]
        if parent in found:
            found.add(child)
    return found


def _foreign_s():
    """CPU of all that is neither below this process nor the kernel's."""
    table = processes()
    mine, kernel_thread = tree(os.getpid(), table), 0x00200000
    return sum(cpu for pid, (_, flags, cpu) in table.items() if pid not in mine and not flags & kernel_thread)


class Window:
    """with Window() as w: ...; then w.busy_s is the CPU time of the box without what others used, w.foreign their share of it."""

    def __enter__(self):
        self.begun, self.idle_s, self.foreign_s = time.monotonic(), _idle_s(), _foreign_s()
        return self

    def __exit__(self, *_):
        self.seconds, idle_s = time.monotonic() - self.begun, _idle_s() - self.idle_s
        foreign_s = max(0.0, _foreign_s() - self.foreign_s)
        self.busy_s = self.seconds * CPUS - idle_s - foreign_s
        self.foreign = foreign_s / (self.seconds * CPUS)


def resident_kib(pids):
    total = 0
    for pid in pids:
        try:
            total += int(open(f"/proc/{pid}/statm").read().split()[1]) * PAGE
        except OSError:
            pass
    return total / 1024


def kernel_kib():
    """What sockets, routes and map entries are made of."""
    wanted = ("Slab:", "Percpu:", "KernelStack:")
    return sum(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith(wanted))
