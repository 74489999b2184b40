package load

import (
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }
