// Package rediserr classifies what Redis answers.
package rediserr

import (
	"slices"

	"github.com/redis/go-redis/v9"
)

// denials begin the answers of a Redis that lasting rights or keys stand in the way of. A script
// that may not run a command says so in words that depend on the version.
var denials = []string{
	"NOPERM", "NOAUTH", "WRONGPASS", "WRONGTYPE", "unknown command", "This instance has cluster support disabled",
	"The user executing the script", "ACL failure in script",
}

// Denied says whether Redis answers, but refuses for lack of rights, because something else is
// under the key, or because it is another kind of server.
func Denied(err error) bool {
	return err != nil && slices.ContainsFunc(denials, func(denial string) bool { return redis.HasErrorPrefix(err, denial) })
}
