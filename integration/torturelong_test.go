//go:build torture

package integration

import "testing"

// These are TestTorture where Redis or Postgres are several servers. What may be lost, besides:
//
//	fault                        what is done                                               what may be lost
//	switchover                   the primary stops, its standby is promoted, it follows     nothing
//	failover                     kill -9 of the primary, a synchronous standby is promoted  nothing
//	primary frozen               the same; then it wakes up and takes writes for a while    nothing
//	standby restarted            kill -9 of the standby, and a new start                    nothing
//	master killed                kill -9, a replica takes over, a new start as a replica    what ended runs had queued
//	master frozen                SIGSTOP until a replica has taken over, SIGCONT            what ended runs had queued
//	master replaced on purpose   CLUSTER FAILOVER                                           nothing
//	                             SENTINEL FAILOVER                                          what ended runs had queued
//	slot moved                   of a shard, key by key, to another master                  nothing
//	all nodes killed             kill -9 of all servers of Redis, and a new start           what ended runs had queued
//	sentinel frozen              SIGSTOP of one of three, SIGCONT                           nothing
func TestTortureCluster(t *testing.T) { torture(t, ofCluster, 3) }

func TestTortureSentinels(t *testing.T) { torture(t, ofSentinels, 3) }

func TestTortureStandby(t *testing.T) { torture(t, ofStandby, 3) }
