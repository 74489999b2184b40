package httpapi

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// instance is an API with a pipeline, a Redis and a Postgres behind it.
type instance struct {
	t        testing.TB
	api      *testAPI
	url      string
	pipeline *spendflush.Pipeline
	store    *pgstore.Store
	client   redis.UniversalClient
	run      func() // starts the pipeline; until then what is recorded stays in memory
}

func newInstance(t testing.TB) *instance {
	t.Helper()
	databaseURL := testserver.Postgres(t)
	if _, err := migrations.Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	return newInstanceOn(t, databaseURL)
}

// testBooks are the books of every database of these tests, so that batches can be made before it.
var testBooks = spend.BooksID{0xb0, 0x0c, 15: 1}

func newInstanceOn(t testing.TB, databaseURL string) *instance {
	t.Helper()
	store, err := pgstore.Open(t.Context(), databaseURL, pgstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.NewBooksID(t.Context(), testBooks); err != nil {
		t.Fatal(err)
	}
	client, err := redisqueue.Dial(testserver.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	queue := testserver.Must(redisqueue.New(client, redisqueue.Options{}))
	locker := testserver.Must(redislock.New(client, "here", redislock.Options{}))
	heartbeats := testserver.Must(redisqueue.NewHeartbeats(client, redisqueue.HeartbeatOptions{}))
	t.Cleanup(func() {
		client.Close()
		queue.Wait()
		locker.Wait()
		heartbeats.Wait()
	})
	registry := prometheus.NewPedanticRegistry()
	pipeline, err := spendflush.New(spendflush.Config{
		Store: store, Queue: queue, Locker: locker, DirectLocker: memlock.New("here"),
		SealInterval: 5 * time.Millisecond, FlushInterval: 10 * time.Millisecond, Registerer: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	a := newTestAPI(t, Config{Recorder: pipeline, Reader: store, Registry: registry, Instance: "here", Version: "v0",
		Denied: func() string {
			status := pipeline.Status()
			return status.Denied()
		},
		Overview: overview.NewLive(overview.Sources{Books: store, Queue: queue, Locker: locker, Heartbeats: heartbeats, Shards: 1}, pipeline,
			overview.LiveOptions{Version: "v0"})})
	in := &instance{t: t, api: a, url: serve(t, a), pipeline: pipeline, store: store, client: client}
	ctx, cancel := context.WithCancel(context.Background())
	running := make(chan struct{})
	started := false
	in.run = func() {
		started = true
		go func() {
			defer close(running)
			_ = pipeline.Run(ctx)
		}()
	}
	t.Cleanup(func() {
		cancel()
		if started {
			<-running
		}
	})
	return in
}

// post sends updates and returns the status and the answer.
func (in *instance) post(query, contentType, body string) (int, map[string]any) {
	in.t.Helper()
	resp, err := http.Post(in.url+"/v1/updates"+query, contentType, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	return in.decode(resp)
}

// get returns the status and the answer at the path.
func (in *instance) get(path string) (int, map[string]any) {
	in.t.Helper()
	resp, err := http.Get(in.url + path)
	if err != nil {
		in.t.Fatal(err)
	}
	return in.decode(resp)
}

func (in *instance) decode(resp *http.Response) (int, map[string]any) {
	in.t.Helper()
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		in.t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, answer
}

func TestWhatRedisDeniesIsTold(t *testing.T) {
	in := newInstance(t)
	if err := in.client.Set(t.Context(), "{spendflush:"+testBooks.String()+":0}:queue", "another's", 0).Err(); err != nil {
		t.Fatal(err)
	}
	in.run()
	if status, answer := in.post("", "application/json", plain); status != http.StatusAccepted {
		t.Fatal(status, answer)
	}
	const patience = time.Minute
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, ready := in.get("/readyz")
		_, status := in.get("/v1/status")
		_, pipeline := in.get("/v1/pipeline")
		text := fmt.Sprint(status["shards"], pipeline["queue"], pipeline["instances"])
		denied, _ := ready["denied"].(string)
		if strings.Contains(denied, "WRONGTYPE") && strings.Count(text, denied) == 2 && strings.Contains(fmt.Sprint(pipeline["queue"]), "refusal:WRONGTYPE") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v %v", patience, ready, text)
		}
	}
}

func TestOneBadUpdateAmongManyKeepsAllOfThemOut(t *testing.T) {
	in := newInstance(t)
	good := strings.Repeat(plain+",", 50)
	for _, bad := range []string{
		`{"spend":1}`, `{"spend":"x","api_key":"k"}`, `{"spend":1,"api_key":"k","prompt_tokens":1000000001}`, `{"spend":1,`,
	} {
		if status, answer := in.post("", "application/json", "["+good+bad+","+plain+"]"); status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", bad, status, answer)
		}
		if status, answer := in.post("", "application/x-ndjson", strings.ReplaceAll(good, "},", "}\n")+bad+"\n"+plain); status != http.StatusBadRequest {
			t.Errorf("%s in lines: %d %v", bad, status, answer)
		}
	}
	if s := in.pipeline.Status(); s.Accepted != 0 || s.Open.Keys != 0 {
		t.Errorf("%d updates were accepted", s.Accepted)
	}
	if status, _ := in.post("", "application/json", "["+good+plain+"]"); status != http.StatusAccepted || in.pipeline.Status().Accepted != 51 {
		t.Errorf("status %d, %d accepted", status, in.pipeline.Status().Accepted)
	}
}

func TestEachLevelOfAcknowledgementMeansWhatItSays(t *testing.T) {
	in := newInstance(t)
	one := `{"spend":"0.5","team_id":"t"}`

	// Nothing moves yet: accepted is reached at once, the others are not, and what was sent stays.
	if status, answer := in.post("?ack=accepted", "application/json", one); status != http.StatusAccepted || answer["reached"] != "accepted" {
		t.Errorf("%d %v", status, answer)
	}
	for _, ack := range []string{"queued", "committed"} {
		status, answer := in.post("?timeout=20ms&ack="+ack, "application/json", one)
		if status != http.StatusGatewayTimeout || answer["reached"] != "accepted" || answer["updates"] != 1.0 {
			t.Errorf("%s: %d %v", ack, status, answer)
		}
	}
	if status, answer := in.get("/v1/spend/team/t"); status != http.StatusOK || counter(answer, "held", "spend") != "1.5" || counter(answer, "committed", "spend") != "0" {
		t.Errorf("%d %v", status, answer)
	}

	in.run()
	if status, answer := in.post("?ack=queued", "application/json", one); status != http.StatusOK || answer["reached"] == "accepted" {
		t.Errorf("queued: %d %v", status, answer)
	}
	if status, answer := in.post("?ack=committed", "application/json", one); status != http.StatusOK || answer["reached"] != "committed" {
		t.Errorf("committed: %d %v", status, answer)
	}
	// A commit acknowledged is in the database whoever asks, and the three from before went first.
	status, answer := in.get("/v1/spend/team/t")
	if status != http.StatusOK || counter(answer, "committed", "spend") != "2.5" || counter(answer, "total", "api_requests") != 5.0 {
		t.Errorf("%d %v", status, answer)
	}
	if held := counter(answer, "held", "spend"); held != "0" {
		t.Errorf("%v is still held", held)
	}
	if answer["as_of"] == nil || answer["updated_at"] == nil || answer["instance"] != "here" {
		t.Errorf("answer is %v", answer)
	}
	if status, answer := in.get("/v1/audit"); status != http.StatusOK || answer["ok"] != true {
		t.Errorf("audit: %d %v", status, answer)
	}
}

func counter(answer map[string]any, part, name string) any {
	sums, _ := answer[part].(map[string]any)
	return sums[name]
}

func TestHeldAndCommittedAddUpToEveryUpdateWhileTheyMoveFromOneToTheOther(t *testing.T) {
	in := newInstance(t)
	in.run()
	moved := false
	for n := 1; n <= 400; n++ {
		if status, answer := in.post("", "application/json", `{"spend":"0.01","team_id":"t"}`); status != http.StatusAccepted {
			t.Fatalf("%d %v", status, answer)
		}
		_, answer := in.get("/v1/spend/team/t")
		want := spend.Picodollars(int64(n) * 10_000_000_000).String()
		if got := counter(answer, "total", "spend"); got != want {
			t.Fatalf("after %d updates the total is %v, want %s: %v", n, got, want, answer)
		}
		moved = moved || counter(answer, "held", "spend") != "0" && counter(answer, "committed", "spend") != "0"
	}
	if !moved {
		t.Error("never was a part held and a part committed")
	}
}

func TestAnUpdateIsFoundUnderEveryEntityWhateverItsIdsAreMadeOf(t *testing.T) {
	in := newInstance(t)
	in.run()
	ids := []string{"a/b", "%2F", "ключ 😀", "a?b=c&d#e", "..", " ", "a\nb", strings.Repeat("é", 128)}
	for _, id := range ids {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(2)}, Series: spend.Series{
			APIKey: id, UserID: id, EndUserID: id, TeamID: id, OrganizationID: id, AgentID: id, Tags: []string{id}, Model: id,
		}}
		if status, answer := in.post("?ack=committed", "application/json", string(encode(t, &u))); status != http.StatusOK {
			t.Fatalf("%q: %d %v", id, status, answer)
		}
		for _, kind := range spend.EntityTypes() {
			path := "/v1/spend/" + kind.String() + "/" + url.PathEscape(id)
			if kind == spend.TeamMember {
				path += "/" + url.PathEscape(id)
			}
			status, answer := in.get(path)
			if status != http.StatusOK || answer["entity_id"] != id || counter(answer, "total", "spend") != "2" {
				t.Errorf("%s: %d %v", path, status, answer)
			}
			query := url.Values{"entity_type": {kind.String()}, "entity_id": {id}, "by": {"total"}, "group_by": {"model"}}
			if kind == spend.TeamMember {
				query.Set("team_id", id)
			}
			status, answer = in.get("/v1/usage?" + query.Encode())
			if rows, _ := answer["rows"].([]any); status != http.StatusOK || len(rows) != 1 || rows[0].(map[string]any)["spend"] != "2" || rows[0].(map[string]any)["model"] != id {
				t.Errorf("%s: %d %v", query.Encode(), status, answer)
			}
		}
	}
	for _, path := range []string{"/v1/spend/team/nobody", "/v1/spend/team_member/nobody/at-all"} {
		in.wantProblem(path, notFound)
	}
}

var thisHour = time.Now().UTC().Truncate(time.Hour) // all through a test, though the next may have begun

// hourAgo is the start of a UTC hour so many hours before now.
func hourAgo(hours int) time.Time { return thisHour.Add(-time.Duration(hours) * time.Hour) }

func TestUsageAddsUpByHourDayAndGroupInEitherFormat(t *testing.T) {
	in := newInstance(t)
	in.run()
	var lines strings.Builder
	for i, model := range []string{"gpt-5", "gpt-5", "=cmd()", "gpt-5"} {
		fmt.Fprintf(&lines, `{"spend":"0.000000000001","team_id":"t","model":%q,"status":"failure","prompt_tokens":%d,"time":%q}`+"\n",
			model, i, hourAgo(30-10*min(i, 2)).Format(time.RFC3339))
	}
	fmt.Fprintln(&lines, `{"spend":"5","team_id":"another","model":"gpt-5"}`)
	if status, answer := in.post("?ack=committed", "application/x-ndjson", lines.String()); status != http.StatusOK {
		t.Fatalf("%d %v", status, answer)
	}
	bounds := url.Values{"entity_type": {"team"}, "entity_id": {"t"}, "from": {hourAgo(40).Format(time.RFC3339)}, "to": {hourAgo(-1).Format(time.RFC3339)}}
	query := "/v1/usage?" + bounds.Encode()

	_, answer := in.get(query + "&by=hour&group_by=model&tz=Asia/Kolkata")
	kolkata, err := time.LoadLocation("Asia/Kolkata")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range answer["rows"].([]any) {
		row := row.(map[string]any)
		got = append(got, fmt.Sprint(row["hour"], row["model"], row["spend"], row["failed_requests"], row["prompt_tokens"]))
	}
	want := []string{
		fmt.Sprint(hourAgo(30).In(kolkata).Format(time.RFC3339), "gpt-5", "0.000000000001", 1, 0),
		fmt.Sprint(hourAgo(20).In(kolkata).Format(time.RFC3339), "gpt-5", "0.000000000001", 1, 1),
		fmt.Sprint(hourAgo(10).In(kolkata).Format(time.RFC3339), "=cmd()", "0.000000000001", 1, 2),
		fmt.Sprint(hourAgo(10).In(kolkata).Format(time.RFC3339), "gpt-5", "0.000000000001", 1, 3),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}

	_, answer = in.get(query + "&by=total")
	if rows := answer["rows"].([]any); len(rows) != 1 || rows[0].(map[string]any)["spend"] != "0.000000000004" {
		t.Errorf("in total: %v", answer)
	}
	_, answer = in.get("/v1/usage?by=total&tz=UTC&from=" + hourAgo(40).Format(time.RFC3339))
	if rows := answer["rows"].([]any); len(rows) != 1 || rows[0].(map[string]any)["spend"] != "5.000000000004" {
		t.Errorf("of all: %v", answer)
	}

	resp, err := http.Get(in.url + query + "&by=total&group_by=model,team_id&format=csv")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	records, err := csv.NewReader(resp.Body).ReadAll()
	if err != nil || resp.StatusCode != http.StatusOK || len(records) != 3 {
		t.Fatal(resp.StatusCode, err, records)
	}
	if !slices.ContainsFunc(records, func(r []string) bool { return slices.Equal(r[:3], []string{"'=cmd()", "t", "0.000000000001"}) }) {
		t.Errorf("got %q", records)
	}
}

func TestStatusAndMetricsTellOfTheSameInstance(t *testing.T) {
	in := newInstance(t)
	in.post("", "application/json", plain)
	status, answer := in.get("/v1/status")
	if status != http.StatusOK || answer["version"] != "v0" || answer["database"] != "ok" || answer["accepted_updates"] != 1.0 ||
		answer["producer"] != in.pipeline.Producer().String() {
		t.Errorf("%d %v", status, answer)
	}
	resp, err := http.Get(in.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "spendflush_updates_accepted_total 1\n") {
		t.Errorf("%v\n%s", err, body)
	}
}

func TestAWaitThatTheEndOfTheInstanceCutsShortTellsHowFarItGot(t *testing.T) {
	in := newInstance(t)
	type result struct {
		status int
		answer map[string]any
	}
	done := make(chan result, 1)
	go func() {
		status, answer := in.post("?ack=committed&timeout=60s", "application/json", plain)
		done <- result{status, answer}
	}()
	for in.pipeline.Status().Accepted == 0 {
		select {
		case r := <-done:
			t.Fatalf("%d %v", r.status, r.answer)
		case <-time.After(time.Millisecond):
		}
	}
	// It isn't running, so nothing can be drained.
	if err := in.pipeline.Shutdown(t.Context()); err == nil {
		t.Error("all is drained without running")
	}
	if r := <-done; r.status != http.StatusGatewayTimeout || r.answer["reached"] != "accepted" {
		t.Errorf("%d %v", r.status, r.answer)
	}
	if status, answer := in.post("", "application/json", plain); status != http.StatusServiceUnavailable {
		t.Errorf("an update after the end: %d %v", status, answer)
	}
}

func TestWithPostgresGoneUpdatesAreTakenAndTheTotalIsRefused(t *testing.T) {
	server := testserver.NewPostgres(t)
	databaseURL := server.URL("postgres")
	if _, err := migrations.Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	in := newInstanceOn(t, databaseURL)
	in.run()
	// The queue is used once Postgres has told which books these are, and that no other database
	// uses it.
	if status, answer := in.post("?ack=queued", "application/json", plain); status != http.StatusOK || answer["reached"] == "accepted" {
		t.Fatalf("%d %v", status, answer)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, answer := in.post("?ack=queued", "application/json", plain); status != http.StatusOK || answer["reached"] != "queued" {
		t.Errorf("%d %v", status, answer)
	}
	for _, path := range []string{"/v1/spend/api_key/k", "/v1/usage", "/v1/usage?format=csv", "/v1/audit"} {
		if status, answer := in.get(path); status != http.StatusServiceUnavailable || answer["type"] != typeOf(databaseUnavailable) {
			t.Errorf("%s: %d %v", path, status, answer)
		}
	}
	if status, answer := in.get("/v1/status"); status != http.StatusOK || answer["database"] != "unavailable" {
		t.Errorf("%d %v", status, answer)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, answer := in.post("?ack=committed&timeout=60s", "application/json", plain); status != http.StatusOK {
		t.Errorf("%d %v", status, answer)
	}
	if status, answer := in.get("/v1/spend/api_key/k"); status != http.StatusOK || counter(answer, "total", "spend") != "3" {
		t.Errorf("%d %v", status, answer)
	}
}
