package overview

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/spend"
)

// When something is a problem.
const (
	behindWarn   = 10 * time.Second
	behindBad    = time.Minute
	nearBound    = 0.8
	atBound      = 0.95
	deadlockSeen = 5 * time.Minute // how long one is told of
	clockBad     = time.Hour       // updates without a time then count in a wrong hour, and nothing is pruned
	lossIsNew    = 24 * time.Hour  // how long a loss is bad; after that it is known, and nothing can be done about it
)

// Anchors in docs/runbook.md; each is an alert's name.
const (
	runBehind      = "spendflushbehind"
	runNoHolder    = "spendflushnolockholder"
	runFallback    = "spendflushfallbackactive"
	runQueueBound  = "spendflushqueuenearbound"
	runMemoryBound = "spendflushmemorynearbound"
	runLost        = "spendflushlostbatches"
	runQuarantined = "spendflushquarantined"
	runConflicts   = "spendflushidconflicts"
	runAudit       = "spendflushauditfailed"
	runDeadlocks   = "spendflushdeadlocks"
	runJournal     = "spendflushjournalgrowing"
	runGone        = "spendflushinstancedown"
	runPostgres    = "spendflushpostgresaway"
	runOldPrimary  = "spendflusholdprimary"
	runNotReady    = "spendflushnotready"
	runDenied      = "spendflushaccessdenied"
	runClocks      = "spendflushclockdifference"
)

// diagnose fills in state, sentence and problems of what was collected.
func diagnose(r *Report) {
	r.Problems = []Problem{}
	for _, look := range []func(*Report) []Problem{
		diagnosePostgres, diagnoseDenials, diagnoseLosses, diagnoseAudit, diagnoseReplica, diagnoseDelay, diagnoseLocks, diagnoseQueue, diagnoseInstances, diagnoseClocks,
	} {
		r.Problems = append(r.Problems, look(r)...)
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int { return rank(b.Severity) - rank(a.Severity) })
	r.State = OK
	if len(r.Problems) > 0 {
		r.State = r.Problems[0].Severity
	}
	r.Sentence = sentence(r)
}

func rank(s State) int { return slices.Index([]State{OK, Warn, Bad}, s) }

func sentence(r *Report) string {
	if len(r.Problems) == 0 {
		if r.Behind < 0.05 {
			return "Books exact and up to date."
		}
		return fmt.Sprintf("Books exact and %s behind.", seconds(r.Behind))
	}
	text := r.Problems[0].What
	switch more := len(r.Problems) - 1; {
	case more == 1:
		text += " There is another problem."
	case more > 1:
		text += fmt.Sprintf(" There are %d more problems.", more)
	}
	return text
}

// seconds writes a duration as people say it.
func seconds(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 120:
		return fmt.Sprintf("%.0f s", s)
	case s < 2*60*60:
		return fmt.Sprintf("%.0f min", s/60)
	default:
		return fmt.Sprintf("%.0f h", s/3600)
	}
}

// count writes a number with its noun. The plural ends in s, or a y turns into ies.
func count(n int64, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "entry"):
		noun = strings.TrimSuffix(noun, "y") + "ies"
	case strings.HasSuffix(noun, "batch"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// doGrant is what to do where access is denied.
const doGrant = "Grant the rights that docs/security.md lists, or take away what is under spendflush's keys. Nothing is lost meanwhile, " +
	"as long as the instances live."

func diagnosePostgres(r *Report) []Problem {
	switch {
	case r.Postgres.Refusal != "":
		return []Problem{{Bad, "Postgres refuses: " + r.Postgres.Refusal + ". Updates are taken and kept until it doesn't.",
			"Mend what it says: a right is granted by the tables' owner, a standby is promoted or left out of DATABASE_URL.", runPostgres}}
	case !r.Postgres.Up:
		return []Problem{{Bad, "Postgres can't be reached. Updates are taken and kept until it is back.",
			"Bring Postgres back. Nothing is lost meanwhile, as long as instances and Redis don't fail together.", runPostgres}}
	case !r.Postgres.Migrated:
		return []Problem{{Bad, "The tables are missing in Postgres. Updates are taken and kept until they are there.",
			`Start an instance, which makes them, or say "spendflush migrate up".`, runPostgres}}
	case r.Postgres.OldPrimary != "":
		return []Problem{{Bad, "A server of DATABASE_URL takes writes although another was promoted: " + r.Postgres.OldPrimary + ". Nothing is written there.",
			"Stop it, and make it a standby of the other one, by pg_rewind.", runOldPrimary}}
	}
	return nil
}

// diagnoseDenials finds instances that a server answers and refuses. Where that is so, it is the
// cause of all else.
func diagnoseDenials(r *Report) []Problem {
	var names []string
	var what string
	for i := range r.Instances {
		if in := &r.Instances[i]; in.Alive && in.Denied != "" {
			names, what = append(names, in.Instance), in.Denied
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Problem{{Bad, namesOf(names) + " is denied access: " + what + ".", doGrant, runDenied}}
}

func diagnoseLosses(r *Report) (list []Problem) {
	if r.LostBatches > 0 {
		p := Problem{Bad, count(r.LostBatches, "batch") + " lost: missing from the books for good, unless found.",
			"See which under Lost batches, with their updates and amount. A batch that turns up is counted by itself.", runLost}
		if r.AsOf.Sub(r.LastLost) > lossIsNew {
			p.Severity = Warn
		}
		list = append(list, p)
	}
	return append(list, diagnoseQuarantine(r)...)
}

func diagnoseAudit(r *Report) []Problem {
	if r.LastAudit == nil || r.LastAudit.OK {
		return nil
	}
	return []Problem{{Bad, fmt.Sprintf("The books did not add up at the last audit, %s ago.", seconds(r.AsOf.Sub(r.LastAudit.At).Seconds())),
		"Run the audit again and read which check fails: the tables may have been changed by hand.", runAudit}}
}

// diagnoseReplica reports a Redis that takes no writes. Where the books are behind, that is the
// cause.
func diagnoseReplica(r *Report) []Problem {
	if !r.Queue.Replica {
		return nil
	}
	severity := Warn
	if r.Behind > behindBad.Seconds() {
		severity = Bad
	}
	return []Problem{{severity, "Redis answers READONLY: it is a replica. Instances write directly to Postgres, and what is queued waits.",
		"Have REDIS_URL lead to the master, or promote this one. Instances then return to it by themselves. The books stay exact.", runFallback}}
}

func diagnoseDelay(r *Report) []Problem {
	severity := Warn
	switch behind := time.Duration(r.Behind * float64(time.Second)); {
	case behind <= behindWarn:
		return nil
	case behind > behindBad:
		severity = Bad
	}
	return []Problem{{severity, fmt.Sprintf("The books are %s behind.", seconds(r.Behind)),
		"See where updates wait: in an instance, in the queue, or for Postgres.", runBehind}}
}

// diagnoseLocks finds shards that nobody flushes. That is a problem only when batches have waited
// for a while: instances look for work at intervals, and give the lock up when there is none.
func diagnoseLocks(r *Report) (list []Problem) {
	for _, lock := range r.Locks {
		i := slices.IndexFunc(r.Queue.Shards, func(q QueueShard) bool { return q.Shard == lock.Shard })
		if lock.Holder != "" || i < 0 || r.Queue.Shards[i].Oldest <= behindWarn.Seconds() {
			continue
		}
		q := r.Queue.Shards[i]
		severity := Warn
		if q.Oldest > behindBad.Seconds() {
			severity = Bad
		}
		list = append(list, Problem{severity,
			fmt.Sprintf("Nobody flushes shard %d, where %s in the queue for up to %s.", q.Shard, waiting(q.Batches), seconds(q.Oldest)),
			"See whether instances run and reach Redis and Postgres, or flush by hand with \"spendflush flush\".", runNoHolder})
	}
	return list
}

func waiting(batches int64) string {
	if batches == 1 {
		return "1 batch has waited"
	}
	return fmt.Sprintf("%d batches have waited", batches)
}

func diagnoseQueue(r *Report) (list []Problem) {
	q := &r.Queue
	if !q.Used {
		return diagnoseLeft(q.Left)
	}
	if !q.Up {
		return diagnoseRedis(r)
	}
	list = append(list, diagnoseShardsAway(r)...)
	if q.MaxBytes == 0 {
		return list
	}
	bound := float64(q.MaxBytes) / float64(max(1, len(q.Shards)))
	for _, shard := range q.Shards {
		full := float64(shard.Bytes) / bound
		if full <= nearBound {
			continue
		}
		severity := Warn
		if full > atBound {
			severity = Bad
		}
		list = append(list, Problem{severity, fmt.Sprintf("The queue of shard %d is %.0f %% full.", shard.Shard, full*100),
			"See why flushing is slow or stopped. When it is full, batches wait in the memory of the instances.", runQueueBound})
	}
	return list
}

// diagnoseRedis reports what is wrong where Redis answers for no shard.
func diagnoseRedis(r *Report) []Problem {
	q := &r.Queue
	if !slices.ContainsFunc(r.Instances, func(in Instance) bool { return in.Self }) {
		what := "Redis can't be reached from here, so no instance is known of."
		if q.Refusal != "" {
			what = "Redis refuses: " + q.Refusal + ". So no instance is known of."
		}
		return []Problem{{Bad, what,
			"Ask an instance how it stands, and bring Redis back. Instances write directly to Postgres meanwhile.", runFallback}}
	}
	if q.Refusal != "" {
		return []Problem{{Warn, "Redis refuses: " + q.Refusal + ". Instances write directly to Postgres, one at a time.",
			"Mend what it says. Instances then return to it by themselves. The books stay exact.", runFallback}}
	}
	return []Problem{{Warn, "Redis can't be reached. Instances write directly to Postgres, one at a time.",
		"Bring Redis back: instances then return to it by themselves. The books stay exact.", runFallback}}
}

// diagnoseShardsAway reports shards whose node in Redis doesn't answer or refuses, while others are
// well.
func diagnoseShardsAway(r *Report) (list []Problem) {
	var shards []string
	refusal := ""
	for _, shard := range r.Queue.Shards {
		if shard.Error != "" {
			shards = append(shards, fmt.Sprint(shard.Shard))
			refusal = cmp.Or(refusal, shard.Refusal)
		}
	}
	if len(shards) > 0 {
		noun, it := "shard", "it is"
		if len(shards) > 1 {
			noun, it = "shards", "these are"
		}
		said := "doesn't answer"
		if refusal != "" {
			said = "refuses (" + refusal + ")"
		}
		list = append(list, Problem{Warn,
			fmt.Sprintf("Redis %s for %s %s of %d: %s written directly to Postgres.", said, noun, strings.Join(shards, ", "), len(r.Queue.Shards), it),
			"See the cluster's node that has it, by CLUSTER NODES. It is used again by itself. The books stay exact.", runFallback})
	}
	if !r.InstancesComplete && len(r.Instances) == 0 {
		list = append(list, Problem{Bad, "Redis doesn't say which instances there are, though it answers otherwise.",
			"Ask an instance how it stands, and see the cluster's node that doesn't answer.", runFallback})
	}
	return list
}

// diagnoseLeft reports batches that were acknowledged before Redis was switched off.
func diagnoseLeft(batches int64) []Problem {
	if batches == 0 {
		return nil
	}
	verb := "lie"
	if batches == 1 {
		verb = "lies"
	}
	return []Problem{{Bad, fmt.Sprintf("%s %s in the Redis that is switched off, and not in the books.", count(batches, "batch"), verb),
		`Say "spendflush flush", which brings them to Postgres whether or not Redis is switched off.`, runFallback}}
}

func diagnoseInstances(r *Report) (list []Problem) {
	if r.InstancesComplete && !r.Queue.Replica && !slices.ContainsFunc(r.Instances, func(in Instance) bool { return in.Alive }) {
		list = append(list, Problem{Bad, "No instance is heard from: updates are taken by none, and what is queued is flushed by none.",
			"Start an instance, or see why those that run can't reach Redis.", runGone})
	}
	list = append(list, diagnoseUnready(r)...)
	var gone, fallback, full, retentionDropped, deadlocked []string
	var held int64
	for i := range r.Instances {
		in := &r.Instances[i]
		if !in.Alive && r.Queue.Replica {
			continue // it can't tell of itself there
		}
		if !in.Alive {
			gone = append(gone, in.Instance)
			held += in.HeldUpdates
			continue
		}
		if in.Fallback && r.Queue.Up && !r.Queue.Replica && !anyShardAway(r) {
			fallback = append(fallback, in.Instance)
		}
		if in.MaxKeys > 0 && float64(in.Keys) > nearBound*float64(in.MaxKeys) {
			full = append(full, in.Instance)
		}
		if in.JournalFailing {
			retentionDropped = append(retentionDropped, in.Instance)
		}
		if !in.LastDeadlock.IsZero() && r.AsOf.Sub(in.LastDeadlock) < deadlockSeen {
			deadlocked = append(deadlocked, in.Instance)
		}
	}
	problem := func(names []string, what, do, runbook string) {
		if len(names) > 0 {
			list = append(list, Problem{Warn, namesOf(names) + " " + what, do, runbook})
		}
	}
	lastHeld := "It held nothing when it was last heard from."
	if held > 0 {
		lastHeld = "When last heard from: " + count(held, "update") + " held."
	}
	problem(gone, "is not heard from. "+lastHeld,
		"If it is frozen it goes on where it stopped. If it died, what it had queued or journaled is safe; start it again.", runGone)
	problem(fallback, "writes directly to Postgres, although Redis answers here.",
		"See whether that instance reaches Redis, and whether Redis is out of memory or takes no writes.", runFallback)
	problem(full, "has its memory for distinct keys more than 80 % full.",
		"See why its updates don't get on. When it is full, updates are refused; SPENDFLUSH_MAX_KEYS is the bound.", runMemoryBound)
	problem(retentionDropped, "can't write its journal.",
		"See its disk. Until then its batches would be lost if it and Redis died together.", runJournal)
	problem(deadlocked, "had a deadlock in Postgres within the last 5 minutes, and tried again.",
		"See who else writes to the tables of spendflush: its own flushes don't deadlock.", runDeadlocks)
	return list
}

// anyShardAway says whether that some write directly is explained by what diagnoseShardsAway
// reports.
func anyShardAway(r *Report) bool {
	return slices.ContainsFunc(r.Queue.Shards, func(q QueueShard) bool { return q.Error != "" })
}

// diagnoseUnready finds instances that live and aren't ready, and says why the first of them isn't.
func diagnoseUnready(r *Report) []Problem {
	var names []string
	var why string
	alive, copied := 0, false
	for i := range r.Instances {
		in := &r.Instances[i]
		if !in.Alive {
			continue
		}
		if alive++; in.NotReady != "" {
			names = append(names, in.Instance)
			copied = copied || in.NotReady == spend.ErrTwoDatabases.Error()
			if why == "" {
				why = in.NotReady
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	severity := Warn
	if len(names) == alive || copied {
		severity = Bad
	}
	return []Problem{{severity, namesOf(names) + " is not ready: " + why + ".",
		"Mend what it says. Balancers send to those that are ready meanwhile.", runNotReady}}
}

// diagnoseClocks finds instances whose clock and that of a server differ, and says of the first one
// by how much.
func diagnoseClocks(r *Report) []Problem {
	var names []string
	var what string
	severity := Warn
	for i := range r.Instances {
		in := &r.Instances[i]
		var differ []string
		for _, server := range []struct {
			name  string
			ahead float64
		}{{"Postgres", in.PostgresAhead}, {"Redis", in.RedisAhead}} {
			apart := math.Abs(server.ahead)
			if !in.Alive || apart <= clocks.Bound.Seconds() {
				continue
			}
			side := "behind"
			if server.ahead < 0 {
				side = "ahead of"
			}
			differ = append(differ, fmt.Sprintf("%s %s that of %s", seconds(apart), side, server.name))
			if apart > clockBad.Seconds() {
				severity = Bad
			}
		}
		if len(differ) == 0 {
			continue
		}
		if names = append(names, in.Instance); what == "" {
			what = fmt.Sprintf("The clock of instance %s is %s.", in.Instance, strings.Join(differ, " and "))
		}
	}
	switch others := len(names) - 1; {
	case others < 0:
		return nil
	case others == 1:
		what += " That of " + names[1] + " differs, too."
	case others > 1:
		what += fmt.Sprintf(" Those of %d other instances differ, too.", others)
	}
	return []Problem{{severity, what, "Set the clock that is wrong, and see why NTP doesn't keep it. Updates are taken and booked meanwhile; " +
		"those without a time count in the hour of their instance's clock.", runClocks}}
}

// namesOf names instances, a few of them.
func namesOf(names []string) string {
	if len(names) == 1 {
		return "Instance " + names[0]
	}
	const few = 3
	text := fmt.Sprintf("Each of %d instances (%s", len(names), strings.Join(names[:min(few, len(names))], ", "))
	if len(names) > few {
		text += ", …"
	}
	return text + ")"
}
