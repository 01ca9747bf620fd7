/*
 * The protocol of kernel/dma/swiotlb_throttle.c, for spin. Every inline bears the name of the C function it
 * stands for; README.md says what is modelled, and test/model/run which configurations are checked.
 *
 * Memory. What a process stores without a lock's or barrier's help need not be seen by others at once: a
 * change of the per-CPU counter waits in the buffer of its CPU (dpart, dcount), and @waiting and @goal in the
 * buffer of whoever holds the lock (the values under the lock are nwait and ngoal). The buffers drain at any
 * time (proctype memory), each by itself, and at the latest in smp_mb(), in a value-returning atomic and when
 * the lock is given back; taking the lock drains nothing. That is weaker than x86, where stores stay in order.
 */
#ifndef HIGH
#define HIGH	16
#define LOW	14
#endif
#ifndef NEWHIGH
#define NEWHIGH	0	/* 0: the thresholds do not change */
#define NEWLOW	0
#endif
#ifndef TRY
#define TRY	0	/* bit i: request i must not block */
#endif
#ifndef IMPATIENT
#define IMPATIENT 0	/* bit i: request i may time out, at any moment */
#endif
#ifndef SPLIT
#define SPLIT	0	/* bit i: request i is unmapped in two pieces, on two CPUs */
#endif
#ifndef HOLD
#define HOLD	0	/* bit i: request i is unmapped when all else has come to rest */
#endif
#ifndef SLOWDISK
#define SLOWDISK 1	/* serialized requests may do so, too */
#endif
#ifndef UNMAPPER
#define UNMAPPER(i) ((i) & 1)
#endif
#ifndef PSERIAL
#define PSERIAL	0	/* the first of the slots that are in use from the start are serialized ones */
#endif
#ifndef NP
#define NP	0
#endif
#ifndef S1
#define S1	0
#endif
#ifndef S2
#define S2	0
#endif
#ifndef P0
#define P0	0
#endif
#ifndef P1
#define P1	0
#endif
#ifndef P2
#define P2	0
#endif
#ifndef DEVS
#define DEVS	0	/* bit i: request i is of device 1; 0: there is one device, and no shares */
#endif
#ifndef COUNTED
#define COUNTED	0	/* bit i: request i, in use from the start, is counted for its device, which is active */
#endif
#ifndef IDLE
#define IDLE	0	/* 1: a device that does not wait may lose its claim whenever the queue is looked at */
#endif
#ifndef SUMSTEPS
#define SUMSTEPS 0	/* 1: percpu_counter_sum() reads one part at a time */
#endif

/* Requests 0..NM-1 are made by the mappers; NM..NR-1 are in use from the start. */
#define NR	(NM + NP)
#define SIZE(i)	((i) == 0 -> S0 : ((i) == 1 && NM > 1 -> S1 : ((i) == 2 && NM > 2 -> S2 : \
		((i) == NM -> P0 : ((i) == NM + 1 -> P1 : P2)))))
#define BIT(mask, i) (((mask) >> (i)) & 1)
#if NEWHIGH > 0
#define CHANGER	1
#else
#define CHANGER	0
#endif

/* A mapper a CPU, then the two that unmap, then the one that changes the thresholds. */
#if NM + CHANGER == 4
#define NCPU	6
#elif NM + CHANGER == 3
#define NCPU	5
#else
#define NCPU	4
#endif
#ifndef BATCH
#define BATCH	2
#endif
#ifndef PART
#define PART	(BATCH - 1)
#endif
#define SLACK	(BATCH * NCPU)

#define INF	250	/* LONG_MAX */
#define OFF	200	/* SWIOTLB_THROTTLE_OFF */
#define NONE	255

/* struct swiotlb_throttle */
short count;		/* used: the central count, */
short part[NCPU];	/* and the parts of the CPUs */
short high = HIGH, low = LOW;
bit waiting;		/* as others see it: 0 or not */
byte nwait;		/* as the holder of the lock sees it */
byte freed;
byte goal = INF;	/* as others see it */
byte ngoal = INF;
bit lock;		/* t->wait.lock */
chan queue = [NM] of { byte };
byte serial_slots;

#if DEVS
/* struct throttle_share */
#define DEV(i)	BIT(DEVS, i)
short held[2];
bit claim[2];		/* active */
byte nactive;
byte nr_waiters[2];
chan aside[2] = [NM] of { byte };
bit counted[NR];	/* __DMA_ATTR_COUNTED */
#define NO_GOAL	-1
short share_goal[2] = NO_GOAL;	/* as others see it */
short nshare_goal[2] = NO_GOAL;
#define SHOW_SHARE_GOALS ; share_goal[0] = nshare_goal[0]; share_goal[1] = nshare_goal[1]
#define OVER_SHARE(i) (nactive == 2 && held[DEV(i)] > 0 && held[DEV(i)] + SIZE(i) > high / 2)
#define NOBODY_ASIDE (len(aside[0]) + len(aside[1]) == 0)
/* More locals. */
#define NEXT	byte next
#define LOOK	bit look
#define OR_LOOK(it) ((it) || look)
#define FORCED	c
#else
#define SHOW_SHARE_GOALS
#define NEXT
#define LOOK
#define OR_LOOK(it) (it)
#define FORCED	0
#endif

/* The buffers. */
short dpart[NCPU], dcount[NCPU];
bit fbclock;		/* of used: held until a fold is visible, and while a sum is made */

/* struct throttle_waiter, and where a request is */
bit admitted[NM];
bit serialized[NR];
#define NEW	0
#define MAPPED	1
#define HALF	2	/* one piece is unmapped */
#define ENDED	3
byte state[NR];
bit release_now[NR];	/* what is held is held no longer */

/* What must be true, kept beside the protocol. */
byte inuse;		/* slots that the throttle let through, timed out ones not among them */
byte serial_inuse;
bit timedout[NR];
bit asleep[NM];
byte ticket[NM], tickets;
#if NM > 2
#define ANY_ASLEEP (asleep[0] || asleep[1] || asleep[2])
#else
#define ANY_ASLEEP (asleep[0] || asleep[1])
#endif

inline drain(cpu)
{
	count = count + dcount[cpu];
	part[cpu] = part[cpu] + dpart[cpu];
	if
	:: dcount[cpu] != 0 -> fbclock = 0
	:: else
	fi;
	dcount[cpu] = 0;
	dpart[cpu] = 0
}

inline smp_mb(cpu)
{
	d_step { drain(cpu) }
}

/* By the holder of the lock. */
inline smp_mb_locked(cpu)
{
	d_step { drain(cpu); waiting = (nwait > 0); goal = ngoal SHOW_SHARE_GOALS }
}

inline spin_lock()
{
	!lock;
	lock = 1
}

inline spin_unlock(cpu)
{
	d_step { drain(cpu); waiting = (nwait > 0); goal = ngoal SHOW_SHARE_GOALS; lock = 0 }
}

inline percpu_counter_add_batch(cpu, amount)
{
	drain(cpu);
	if
	:: part[cpu] + (amount) < BATCH && part[cpu] + (amount) > -BATCH ->
		dpart[cpu] = amount
	:: else ->
		!fbclock;
		fbclock = 1;
		dcount[cpu] = part[cpu] + (amount);
		dpart[cpu] = -part[cpu]
	fi
}

inline percpu_counter_sum(sum)
{
#if SUMSTEPS
	atomic { !fbclock; fbclock = 1; sum = count; c = 0 }
	do
	:: d_step { c < NCPU -> sum = sum + part[c]; c++ }
	:: atomic { c == NCPU -> c = 0; fbclock = 0; break }
	od
#else
	!fbclock;
	sum = count;
	c = 0;
	do
	:: c < NCPU -> sum = sum + part[c]; c++
	:: else -> break
	od;
	c = 0
#endif
}

#if DEVS
inline throttle_claim_share(req)
{
	nr_waiters[DEV(req)]++;	/* throttle_join() */
	if
	:: !claim[DEV(req)] -> claim[DEV(req)] = 1; nactive++
	:: else
	fi
}

/* Those who do not wait, and have not asked for a while: nobody can tell when that is. */
inline throttle_expire_shares()
{
#if IDLE
	if
	:: claim[0] && !nr_waiters[0] -> claim[0] = 0; nactive--
	:: true
	fi;
	if
	:: claim[1] && !nr_waiters[1] -> claim[1] = 0; nactive--
	:: true
	fi
#else
	skip
#endif
}

inline throttle_leave(req)
{
	if
	:: queue??[eval(req)] -> queue??eval(req)
	:: aside[DEV(req)]??[eval(req)] ->
		aside[DEV(req)]??eval(req);
		nshare_goal[DEV(req)] = (len(aside[DEV(req)]) > 0 -> nshare_goal[DEV(req)] : NO_GOAL)
	:: else
	fi;
	nr_waiters[DEV(req)]--
}

#define EARLIER(i, than) ((than) == NONE || ticket[i] < ticket[(than) % NM])

/* Who goes next if it fits is @w then, or NONE. Changes @c. */
inline throttle_next()
{
	w = NONE;
	do
	:: w == NONE && len(queue) > 0 ->
		queue?<w>;
		if
		:: len(aside[DEV(w)]) == 0 && !OVER_SHARE(w)
		:: else ->
			queue?w;
			aside[DEV(w)]!w;
			w = NONE
		fi
	:: else -> break
	od;
#ifndef FAULT_ASIDE_UNSEEN
	if
	:: len(aside[0]) > 0 -> aside[0]?<c>; w = (EARLIER(c, w) && !OVER_SHARE(c) -> c : w)
	:: else
	fi;
	if
	:: len(aside[1]) > 0 -> aside[1]?<c>; w = (EARLIER(c, w) && !OVER_SHARE(c) -> c : w)
	:: else
	fi;
#endif
	c = 0
}

inline throttle_oldest_aside()
{
	w = NONE;
	if
	:: len(aside[0]) > 0 -> aside[0]?<w>
	:: else
	fi;
	if
	:: len(aside[1]) > 0 -> aside[1]?<c>; w = (EARLIER(c, w) -> c : w)
	:: else
	fi
}

/* What the device of @i is to be down at. */
#define SHARE_GOAL(i) (low / nactive < high / nactive - SIZE(i) -> low / nactive : \
		(high / nactive > SIZE(i) -> high / nactive - SIZE(i) : 0))

/* For one device. */
inline throttle_set_share_goals(d)
{
	if
	:: len(aside[d]) > 0 -> aside[d]?<c>; nshare_goal[d] = (OVER_SHARE(c) -> SHARE_GOAL(c) : NO_GOAL)
	:: else
	fi
}

/* With throttle_charge(), but for the counter. */
#define TAKE_SHARE(req) held[DEV(req)] = held[DEV(req)] + SIZE(req); counted[req] = 1;
#else
#define TAKE_SHARE(req)
#endif

/* The body of the loop in swiotlb_throttle_dispatch(), and throttle_wake_task(). */
inline admit_waiter(cpu)
{
#if DEVS
	/* Shares: with more than it, a device gets the serialized place at most; then @c is set. */
	assert(c || !OVER_SHARE(w));
	throttle_leave(w);
#else
	queue?w;
#endif
	if
	:: FORCED || used + SIZE(w) > high ->
		assert(serial_inuse == 0);
		serial_slots = SIZE(w);
		serial_inuse = SIZE(w);
		serialized[w] = 1
	:: else
	fi;
	TAKE_SHARE(w)
	percpu_counter_add_batch(cpu, SIZE(w));
	used = used + SIZE(w);
	/* R1: what is let through is within the threshold, or the one serialized request. */
	inuse = inuse + SIZE(w);
	assert(serialized[w] || inuse <= high);
	/* R6: in the order in which they came, of each device. */
	c = 0;
	do
#if DEVS
	:: c < NM -> assert(!asleep[c] || ticket[c] >= ticket[w] || DEV(c) != DEV(w)); c++
#else
	:: c < NM -> assert(!asleep[c] || ticket[c] >= ticket[w]); c++
#endif
	:: else -> c = 0; break
	od;
#ifndef FAULT_WAITING_EARLY
	drain(cpu);		/* smp_store_release(&t->far), a little later */
#endif
	nwait--;
	assert(!admitted[w]);
	admitted[w] = 1;
	asleep[w] = 0;
	ticket[w] = 0
}

/* @seen has been read from @freed before, in one step with taking the lock. */
inline swiotlb_throttle_dispatch(cpu)
{
	do
	::
#if SUMSTEPS
		smp_mb_locked(cpu);
		percpu_counter_sum(used);
#else
		atomic {
#ifndef FAULT_NO_BARRIER_DISPATCH
			smp_mb_locked(cpu);
#endif
#if DEVS
			throttle_expire_shares();
#endif
			percpu_counter_sum(used)
		}
#endif
#ifdef FAULT_GOAL_BEFORE_READ
		seen = freed;
#endif
#if DEVS
		do
		:: atomic {
			throttle_next();
			if
			:: w != NONE && (used + SIZE(w) <= high || !serial_slots) -> admit_waiter(cpu)
			:: w == NONE && !serial_slots && !NOBODY_ASIDE ->
				throttle_oldest_aside();
				c = 1;
				admit_waiter(cpu)
			:: w == NONE && (serial_slots || NOBODY_ASIDE) -> ngoal = INF; break
			:: w != NONE && used + SIZE(w) > high && serial_slots ->
				if
				:: SIZE(w) > high -> ngoal = INF
				:: else ->
					c = (low < high - SIZE(w) -> low : high - SIZE(w));
					assert(used > c);
					ngoal = seen + used - c;
					c = 0
				fi;
				break
			fi
		   }
		od;
		/* Some may have been given back since. */
		atomic {
#ifndef FAULT_NO_SHARE_GOAL
			throttle_set_share_goals(0);
			throttle_set_share_goals(1);
#endif
			c = 0; used = 0; seen = 0; next = w
		}
		atomic {
#ifndef FAULT_NO_BARRIER_SHARE_GOAL
			smp_mb_locked(cpu);
#endif
			throttle_next();
			if
#ifdef FAULT_NO_SECOND_LOOK
			:: freed >= ngoal ->
#else
			:: freed >= ngoal || w != next ->
#endif
				next = 0; w = 0; seen = freed	/* again */
			:: else -> next = 0; w = 0; break
			fi
		}
#else
		do
		:: atomic {
			len(queue) > 0 ->
			queue?<w>;
			if
			:: used + SIZE(w) <= high || !serial_slots -> admit_waiter(cpu)
			:: else ->
				if
				:: SIZE(w) > high -> ngoal = INF
				:: else ->
					c = (low < high - SIZE(w) -> low : high - SIZE(w));
					assert(used > c);
					ngoal = seen + used - c;
					c = 0
				fi;
				w = 0; used = 0; seen = 0;
				break
			fi
		   }
		:: atomic { len(queue) == 0 -> ngoal = INF; w = 0; used = 0; seen = 0; break }
		od;
		atomic {
#ifndef FAULT_NO_BARRIER_GOAL
			smp_mb_locked(cpu);
#endif
			if
			:: freed >= ngoal -> seen = freed	/* again */
			:: else -> break
			fi
		}
#endif
	od
}

inline throttle_note_freed(cpu, slots)
{
#ifdef FAULT_GOAL_READ_FIRST
	g = goal;
	d_step { drain(cpu); freed = freed + slots; seen = freed }
#else
	d_step { drain(cpu); freed = freed + slots; seen = freed }
	g = goal;
#endif
	if
	:: d_step { !(OR_LOOK(seen >= g)) -> seen = 0; g = 0 }
	:: else ->
		atomic { seen = 0; g = 0; spin_lock(); seen = (OR_LOOK(freed >= ngoal) -> freed : 0) }
		if
		:: seen -> swiotlb_throttle_dispatch(cpu)
		:: else
		fi;
		spin_unlock(cpu)
	fi
}

/* Its first line, the charge itself, is the caller's; @g says whether somebody waits. */
inline throttle_sub(cpu)
{
	atomic {
#ifndef FAULT_NO_BARRIER
		smp_mb(cpu);
#endif
		g = waiting
	}
}

#ifdef FAULT_FAST_PASSES
#define WAITING_SEEN 0
#else
#define WAITING_SEEN waiting
#endif

inline throttle_charge_fast(req, cpu)
{
	atomic { fits = WAITING_SEEN; behind = ANY_ASLEEP }
	if
	:: atomic { fits -> fits = 0 }
	:: else ->
		if
		:: (count > 0 -> count : 0) + SLACK + SIZE(req) > high
		:: else ->
			atomic { percpu_counter_add_batch(cpu, SIZE(req)) }
#ifdef FAULT_NO_TAKE_BACK
			atomic { smp_mb(cpu); fits = 1; inuse = inuse + SIZE(req); assert(inuse <= high) }
#else
#ifdef FAULT_COUNT_BEFORE_WAITING
			smp_mb(cpu);
			fits = ((count > 0 -> count : 0) + SLACK <= high);
			atomic {
				if
				:: fits && !waiting -> inuse = inuse + SIZE(req); assert(inuse <= high)
				:: else -> fits = 0
				fi
			}
#else
			/* Whether @far is closed; the loads are in this order: smp_load_acquire(). */
			atomic {
#ifndef FAULT_NO_BARRIER_FAST
				smp_mb(cpu);
#endif
#ifdef FAULT_FAST_PASSES
				fits = 1
#else
				fits = !waiting
#endif
			}
			atomic {
				if
				:: fits && (count > 0 -> count : 0) + SLACK <= high ->
					assert(!behind);	/* R6 */
					inuse = inuse + SIZE(req);
					assert(inuse <= high)
				:: else -> fits = 0
				fi
			}
#endif
#endif
			if
#ifdef FAULT_TAKE_BACK_ELSEWHERE
			:: d_step { !fits -> part[(req + 1) % NM] = part[(req + 1) % NM] - SIZE(req) }
#else
			:: atomic { !fits -> percpu_counter_add_batch(cpu, -SIZE(req)) }
#endif
				throttle_sub(cpu);
#ifdef FAULT_TAKE_BACK_UNTOLD
				g = 0;
#endif
				if
				:: g -> throttle_note_freed(cpu, SIZE(req))
				:: else
				fi
			:: else
			fi
		fi
	fi
}

inline throttle_sleep(req, cpu)
{
	if
	:: impatient = 0
	:: BIT(IMPATIENT, req) -> impatient = 1
	fi;
	if
	:: atomic { admitted[req] && !lock -> drain(cpu) }
	:: impatient ->
		/* Time is up, but it may be admitted before it has the lock. */
		atomic {
			spin_lock();
#ifndef FAULT_ADMITTED_TWICE
			impatient = !admitted[req]
#endif
		}
		if
		:: !impatient
		:: else ->
			atomic {
#if DEVS
				throttle_leave(req);
				TAKE_SHARE(req)
#else
				if
				:: queue??[eval(req)] -> queue??eval(req)
				:: else
				fi;
#endif
				asleep[req] = 0;
				ticket[req] = 0;
				timedout[req] = 1;
				nwait--		/* throttle_give_up() */
			}
			atomic { percpu_counter_add_batch(cpu, SIZE(req)); seen = freed }
#ifndef FAULT_NO_DISPATCH_ON_TIMEOUT
			swiotlb_throttle_dispatch(cpu)
#endif
		fi;
		spin_unlock(cpu)
	fi
}

inline throttle_admit_slow(req, cpu)
{
	atomic {
		spin_lock();
		behind = 0;
#if DEVS
		c = nactive;
		throttle_claim_share(req);
		c = nactive > c;	/* The shares of the others are smaller. */
#ifdef FAULT_NEWCOMER_UNSEEN
		c = 0;
#endif
		if
		:: BIT(TRY, req) && (len(queue) > 0 || len(aside[DEV(req)]) > 0) ->
			nr_waiters[DEV(req)]--;
			refused = 1
		:: else ->
			tickets = (nwait > 0 -> tickets + 1 : 1);
			nwait++;
			ticket[req] = tickets;
			if
			:: len(queue) == 0 && len(aside[DEV(req)]) > 0 -> aside[DEV(req)]!req
			:: else -> queue!req; c = c || len(queue) == 1
			fi
		fi;
		seen = (c || !refused && freed >= ngoal -> freed : NONE);
		c = 0
#else
		if
		:: BIT(TRY, req) && len(queue) > 0 -> refused = 1
		:: else ->
			nwait++;	/* throttle_add_waiting() */
			tickets = (len(queue) > 0 -> tickets + 1 : 1);
			queue!req;
			ticket[req] = tickets;
			/* Nobody has to look on behalf of one who is not the first. */
			seen = (len(queue) == 1 || freed >= ngoal -> freed : NONE)
		fi
#endif
	}
#if DEVS
	if
	:: seen != NONE -> swiotlb_throttle_dispatch(cpu)
	:: else -> seen = 0
	fi;
	if
	:: !refused && !admitted[req] && BIT(TRY, req) ->
		atomic {
			throttle_leave(req);
			nwait--;
			ngoal = (NOBODY_ASIDE -> INF : ngoal);
			ticket[req] = 0;
			refused = 1
		}
	:: else
	fi;
#else
	if
	:: refused
	:: else ->
#ifndef FAULT_NO_RECHECK
		if
		:: seen != NONE -> swiotlb_throttle_dispatch(cpu)
		:: else -> seen = 0
		fi;
#endif
		if
		:: !admitted[req] && BIT(TRY, req) ->
			atomic {
				queue??eval(req);
				nwait--;
				ngoal = INF;
				ticket[req] = 0;
				refused = 1
			}
		:: else
		fi
	fi;
#endif
	if
	:: admitted[req] || refused -> spin_unlock(cpu)
	:: else ->
		atomic { asleep[req] = 1; spin_unlock(cpu) }
		throttle_sleep(req, cpu)
	fi
}

/* swiotlb_throttle_admit(), __swiotlb_throttle_begin(): a request that may wait, or may be refused. */
proctype mapper(byte i)
{
	byte w, c, seen, g;
	short used;
	bit fits, behind, refused, impatient;
	NEXT;
	LOOK;

	throttle_charge_fast(i, i);
	if
	:: fits
	:: else -> throttle_admit_slow(i, i)
	fi;
	d_step { state[i] = (refused -> ENDED : MAPPED); fits = 0; behind = 0; refused = 0; impatient = 0 }
}

/* With throttle_unserialize(); swiotlb_throttle_uncharge() is the same here. */
inline __swiotlb_throttle_release(req, cpu, slots)
{
	throttle_sub(cpu);
	if
	:: serialized[req] ->
		atomic {
			spin_lock();
#ifdef FAULT_SERIAL_EARLY
			serial_slots = 0;
#else
			serial_slots = serial_slots - slots;
#endif
			serial_inuse = serial_inuse - slots;
			seen = (serial_slots -> 0 : freed)
		}
		if
		:: !serial_slots -> swiotlb_throttle_dispatch(cpu)
		:: else
		fi;
		spin_unlock(cpu)
	:: else
	fi;
	if
	:: g -> throttle_note_freed(cpu, slots)
	:: else
	fi
}

#define HELD(i)	((BIT(HOLD, i) || SLOWDISK && serialized[i]) && !release_now[i])
#define READY(i) ((i) < NR && !HELD(i) && (UNMAPPER(i) == id && state[i] == MAPPED || \
		BIT(SPLIT, i) && UNMAPPER(i) != id && state[i] == HALF))

#if DEVS
/* @given_back is what atomic_long_sub_return() returns; then the goal is read. */
inline throttle_uncount(req, cpu, slots)
{
	if
	:: counted[req] ->
		drain(cpu);
		held[DEV(req)] = held[DEV(req)] - slots;
		given_back = held[DEV(req)]
	:: else
	fi
}
#endif

/* Completions, on another CPU than the map. */
proctype unmapper(byte id)
{
#if DEVS
	short given_back, goal_read;
#endif
	byte w, c, seen, g, i, n;
	short used;
	NEXT;
	LOOK;

end:
	do
	:: atomic {
		if
		:: READY(0) -> i = 0
		:: READY(1) -> i = 1
		:: READY(2) -> i = 2
		:: READY(3) -> i = 3
		:: READY(4) -> i = 4
		:: READY(5) -> i = 5
		fi;
		if
		:: state[i] == HALF -> n = SIZE(i) - 1; state[i] = ENDED
		:: state[i] == MAPPED && BIT(SPLIT, i) -> n = 1; state[i] = HALF
		:: else -> n = SIZE(i); state[i] = ENDED
		fi;
		if
		:: !timedout[i] -> inuse = inuse - n
		:: else
		fi;
#if DEVS
#ifdef FAULT_SHARE_GOAL_READ_FIRST
		goal_read = share_goal[DEV(i)]
	   }
	   atomic {
#endif
		throttle_uncount(i, NM + id, n)
	   }
	   atomic {
#ifndef FAULT_SHARE_GOAL_READ_FIRST
		goal_read = share_goal[DEV(i)];
#endif
		look = (counted[i] && given_back <= goal_read);
		goal_read = 0;
		given_back = 0;
#endif
		/* The first line of throttle_sub(). */
		percpu_counter_add_batch(NM + id, -n)
	   }
	   __swiotlb_throttle_release(i, NM + id, n);
#if DEVS
	   look = 0;
#endif
	   d_step { i = 0; n = 0 }
	od
}

/* throttle_set_thresholds(); the waiters that it makes look at the time again may do so anyhow. */
proctype changer()
{
	byte w, c, seen;
	short used;
	NEXT;

	atomic { spin_lock(); low = NEWLOW; high = NEWHIGH; seen = freed }
	swiotlb_throttle_dispatch(NM + 2);
	spin_unlock(NM + 2)
}

proctype memory()
{
end:
	do
	:: d_step { dpart[0] || dcount[0] -> drain(0) }
	:: d_step { dpart[1] || dcount[1] -> drain(1) }
	:: d_step { dpart[2] || dcount[2] -> drain(2) }
	:: d_step { dpart[3] || dcount[3] -> drain(3) }
#if NCPU > 4
	:: d_step { dpart[4] || dcount[4] -> drain(4) }
#endif
#if NCPU > 5
	:: d_step { dpart[5] || dcount[5] -> drain(5) }
#endif
#if DEVS
	:: share_goal[0] != nshare_goal[0] -> share_goal[0] = nshare_goal[0]
	:: share_goal[1] != nshare_goal[1] -> share_goal[1] = nshare_goal[1]
#endif
	:: waiting != (nwait > 0) -> waiting = (nwait > 0)
	:: goal != ngoal -> goal = ngoal
	od
}

#define POOL_FULL(i) (serial_slots > 0 && (sum > low || sum + SIZE(i) > high))

/* Looks at all whenever nothing moves any more, no time-out is to come, and only slots that are held remain. */
proctype rest()
{
	byte i, ended, w;
	short sum;
#if DEVS
	byte before;
#endif

	do
	:: timeout -> d_step {
		sum = count;
		i = 0;
		do
		:: i < NCPU -> sum = sum + part[i]; i++
		:: else -> break
		od;
#if DEVS
		assert(!lock && !fbclock && nwait == len(queue) + len(aside[0]) + len(aside[1]));
		assert(nwait == nr_waiters[0] + nr_waiters[1]);
		/* R5 and R3, as below: of those first in line and within their share, the one before whom the rest waits. */
		before = NONE;
		i = 0;
		do
		:: i < 2 && len(aside[i]) > 0 ->
			aside[i]?<w>;
			before = (!OVER_SHARE(w) && POOL_FULL(w) && ticket[w] < before -> ticket[w] : before);
			i++
		:: i < 2 && len(aside[i]) == 0 -> i++
		:: i == 2 -> break
		od;
		if
		:: len(queue) > 0 ->
			queue?<w>;
			before = (POOL_FULL(w) && ticket[w] < before -> ticket[w] : before);
			assert(ticket[w] >= before);
			/* Shares: whose is full does not stand in the way of others. */
			assert(!OVER_SHARE(w))
		:: else
		fi;
		i = 0;
		do
		:: i < 2 && len(aside[i]) > 0 ->
			aside[i]?<w>;
			/* Shares: who is set aside waits for its own device, and for the serialized place, or else as the others do. */
			assert(!OVER_SHARE(w) || (serial_slots > 0 && held[i] > SHARE_GOAL(w)));
			assert(OVER_SHARE(w) || nactive == 2 && held[i] > SHARE_GOAL(w) || ticket[w] >= before);
			i++
		:: i < 2 && len(aside[i]) == 0 -> i++
		:: i == 2 -> break
		od;
		before = 0;
		w = 0;
#else
		assert(!lock && !fbclock && nwait == len(queue));
		if
		:: len(queue) > 0 ->
			queue?<w>;
			/* R3: somebody has the serialized place, or the head of the queue would. */
			assert(serial_slots > 0);
			/* R5: at or below low, whoever fits below high goes. */
			assert(sum > low || sum + SIZE(w) > high);
			w = 0
		:: else
		fi;
#endif
		/* The next one that is held is unmapped. */
		i = 0;
		ended = 0;
		do
		:: i < NR && state[i] == ENDED -> ended++; i++
		:: i < NR && (state[i] == MAPPED || state[i] == HALF) && HELD(i) -> release_now[i] = 1; break
		:: i < NR && state[i] != ENDED && !((state[i] == MAPPED || state[i] == HALF) && HELD(i)) -> i++
		:: i == NR -> break
		od;
		if
		:: i == NR ->
			/* Nobody is left behind, and every charge has been given back, once. */
			assert(ended == NR);
			assert(sum == 0 && inuse == 0);
#if DEVS
			assert(held[0] == 0 && held[1] == 0);
#endif
			assert(serial_slots == 0 && serial_inuse == 0)
		:: else -> ended = 0
		fi;
		i = 0;
		sum = 0
	   }
	   if
	   :: ended == NR -> break
	   :: else
	   fi
	od
}

init
{
	byte i;

	atomic {
		i = NM;
		do
		:: i < NR ->
			state[i] = MAPPED;
			inuse = inuse + SIZE(i);
			count = count + SIZE(i);
#if DEVS
			if
			:: BIT(COUNTED, i) ->
				TAKE_SHARE(i)
				nactive = nactive + !claim[DEV(i)];
				claim[DEV(i)] = 1
			:: else
			fi;
#endif
			i++
		:: else -> break
		od;
		if
		:: PSERIAL -> serialized[NM] = 1; serial_slots = SIZE(NM); serial_inuse = SIZE(NM)
		:: else
		fi;
		/* Some were mapped on CPU 0, and others unmapped on the last one. */
		part[0] = PART;
		part[NM + 1] = -(PART);
		i = 0;
		do
		:: i < NM -> run mapper(i); i++
		:: else -> break
		od;
		i = 0;
		run unmapper(0);
		run unmapper(1);
		if
		:: CHANGER -> run changer()
		:: else
		fi;
		run memory();
		run rest()
	}
}
