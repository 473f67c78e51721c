/* SPDX-License-Identifier: Apache-2.0 */
/* Devices in a network namespace of the test's own, which goes with the process. */
#ifndef LLMD_TESTS_BPF_NET_H
#define LLMD_TESTS_BPF_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NET_PACKET_MAX = 66000 };

/** net_enter() - a new network namespace for this process. Return: 0 or -errno. */
int net_enter(void);

/** net_run() - a shell command that must succeed; aborts. */
void net_run(const char *command);
uint32_t net_ifindex(const char *device);

/** net_complete_checksums() - whether what leaves @device has its checksums completed and is cut into segments. */
void net_complete_checksums(const char *device, bool on);

/** net_attach() - TC programs to @device's ingress and egress. */
void net_attach(const char *device, int ingress, int egress);

/** net_tap() - a socket that sends and receives @device's frames, each behind a struct virtio_net_hdr. */
int net_tap(const char *device);

/** net_tun() - makes a device without Ethernet headers. Return: a descriptor for its packets, or -errno. */
int net_tun(const char *device);

/** net_send() - @header: NULL: nothing is left to the device. A program at egress may drop it. */
void net_send(int tap, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n);

/**
 * net_receive() - the next TCP packet that has come in within a second.
 * Return: its length, 0: there was none. @header is what was in front of it.
 */
size_t net_receive(int tap, struct virtio_net_hdr *header, uint8_t frame[NET_PACKET_MAX]);

#endif
