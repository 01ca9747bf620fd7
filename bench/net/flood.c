/*
 * A steady stream of packets from one network device to another of the same machine, and how many arrive.
 * usage: flood FROM TO PACKETS_PER_MS SIZE SECONDS        one line of JSON
 * Raw packets of a type for experiments: no address, no route, no protocol that sends anything again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* A socket of its own type on a device that is up; *mac is the device's address. */
static int device(const char *name, int type, unsigned char *mac)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(type)), size = 8 << 20;
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(type) };
	struct ifreq ifr = { 0 };

	if (fd < 0)
		die("socket");
	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFFLAGS, &ifr))
		die(name);
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) || ioctl(fd, SIOCGIFHWADDR, &ifr))
		die(name);
	memcpy(mac, ifr.ifr_hwaddr.sa_data, ETH_ALEN);
	if (ioctl(fd, SIOCGIFINDEX, &ifr))
		die(name);
	addr.sll_ifindex = ifr.ifr_ifindex;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die("bind");
	/* The receiver may be late; that is not what is measured. */
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	return fd;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static unsigned char packet[2048], got[2048];
	struct ether_header *head = (struct ether_header *)packet;
	unsigned long long sent = 0, refused = 0, received = 0;
	unsigned char from_mac[ETH_ALEN], to_mac[ETH_ALEN];
	struct tpacket_stats stats = { 0 };
	socklen_t len = sizeof(stats);
	double begin, end, t;
	int from, to, size;
	double rate;

	if (argc != 6) {
		fprintf(stderr, "usage: flood FROM TO PACKETS_PER_MS SIZE SECONDS\n");
		return 2;
	}
	rate = atof(argv[3]) * 1000;
	size = atoi(argv[4]);
	if (size < 60 || size > 1514)
		return 2;
	/* Each direction has a type of its own, made from the last letter of its device. */
	from = device(argv[1], 0x88b5, from_mac);
	close(from);
	to = device(argv[2], 0x88b5, to_mac);
	close(to);
	from = device(argv[1], 0x9000 + argv[2][strlen(argv[2]) - 1], from_mac);
	to = device(argv[2], 0x9000 + argv[1][strlen(argv[1]) - 1], to_mac);
	memcpy(head->ether_dhost, to_mac, ETH_ALEN);
	memcpy(head->ether_shost, from_mac, ETH_ALEN);
	head->ether_type = htons(0x9000 + argv[1][strlen(argv[1]) - 1]);
	/* The link comes up by itself. */
	sleep(1);

	begin = now();
	end = begin + atoi(argv[5]);
	while ((t = now()) < end + 1) {
		/* What was missed while the CPU was elsewhere is not sent in one burst. */
		unsigned long long due = t < end ? (t - begin) * rate : 0;
		int burst = 0;

		while (sent + refused < due && burst++ < 16)
			if (send(from, packet, size, 0) == size)
				sent++;
			else
				refused++;
		if (sent + refused < due && burst > 16)
			begin += (due - sent - refused) / rate;
		while (recv(to, got, sizeof(got), MSG_DONTWAIT) > 0)
			received++;
		usleep(500);
	}
	getsockopt(to, SOL_PACKET, PACKET_STATISTICS, &stats, &len);
	printf("{\"sent\":%llu,\"refused\":%llu,\"received\":%llu,\"late\":%u}\n", sent, refused, received, stats.tp_drops);
	return 0;
}
