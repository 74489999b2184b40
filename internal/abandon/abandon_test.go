package abandon_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/spendflush/spendflush/internal/abandon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errOutcome = errors.New("outcome")

func TestCallReturnsWhatTheFunctionReturns(t *testing.T) {
	var calls abandon.Calls
	got, err := abandon.Call(t.Context(), &calls, func() (int, error) { return 7, errOutcome })
	if got != 7 || !errors.Is(err, errOutcome) {
		t.Errorf("got %d, %v", got, err)
	}
	calls.Wait()
}

func TestCancellationEndsTheWaitOfAHangingCallThatWaitWaitsFor(t *testing.T) {
	var calls abandon.Calls
	ctx, cancel := context.WithCancel(t.Context())
	hang, ended := make(chan struct{}), false
	_, err := abandon.Call(ctx, &calls, func() (int, error) {
		cancel()
		<-hang
		ended = true
		return 7, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	close(hang)
	calls.Wait()
	if !ended {
		t.Error("Wait returned before the abandoned call had ended")
	}
}

func TestNothingIsRunWhenTheContextHasEndedBefore(t *testing.T) {
	var calls abandon.Calls
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := abandon.Call(ctx, &calls, func() (int, error) {
		t.Error("the function was run")
		return 0, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	calls.Wait()
}
