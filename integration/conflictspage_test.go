package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// analyze has Postgres count what is in the tables of ids.
func (s *stack) analyze() {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.postgres)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context())
	if _, err := conn.Exec(s.t.Context(), "ANALYZE spendflush.ids_0, spendflush.ids_1"); err != nil {
		s.t.Fatal(err)
	}
}

func TestPageNamesAConflictItsIDsAndWhatToDo(t *testing.T) {
	t.Parallel()
	b, s, in, _ := operator(t)
	in.send("committed", `{"id": "twice", "spend": "3.5", "api_key": "first"}`, http.StatusOK)
	in.send("committed", `{"id": "twice", "spend": "4.25", "api_key": "second", "model": "gpt"}`, http.StatusOK)
	s.awaitTotal("first", "3.5")
	s.analyze()
	b.shows(".path", "about 1 id, each once for 36 days")
	b.shows(".problems", "1 conflict of ids waits in quarantine for a decision")

	id := s.number("SELECT id FROM spendflush.quarantine WHERE kind = 'conflict'")
	b.visit("#/trouble")
	b.shows("main", "A client has used ids twice")
	b.shows("table", "1 update under ids used before, of producer ")
	b.click(fmt.Sprintf(`[aria-label="Show entry %d"]`, id))
	b.shows("dialog", spend.NewFactID(spend.UpdateFact, "twice").String())
	b.shows("dialog", "second, gpt")
	b.shows("dialog", "$4.25")
	b.accessible("a conflict")
	if _, answer := in.get("/v1/ids/twice"); !strings.Contains(answer, js[string](b, `document.querySelector("dialog .identity").textContent`)) {
		t.Errorf("the page shows an identity that isn't in %s", answer)
	}
	b.click("dialog .actions .danger")
	b.shows("dialog", "Do it if both are the same thing")
	b.click("dialog .actions button:last-child")
	b.click(fmt.Sprintf(`[aria-label="Apply entry %d"]`, id))
	b.shows("dialog", "beside what was booked first under the same ids")
	b.typeTheID("Apply", id)
	s.awaitTotal("second", "4.25")
	s.awaitTotal("first", "3.5")
	b.until(`!document.querySelector("main").innerText.includes("A client has used ids twice")`)
}
