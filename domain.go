package spendflush

import "github.com/spendflush/spendflush/spend"

// What a service needs of package spend to book what it spends, under the names of this package.
type (
	// Amount is an amount of dollars, exact to 10⁻¹².
	Amount = spend.Amount
	// Update is what one request cost and whom and what it counts on.
	Update = spend.Update
	// Cost is an Update without its Series.
	Cost = spend.Cost
	// Series is a combination of ids, tags and dimensions.
	Series = spend.Series
	// Status says how the request ended that an update books.
	Status = spend.Status
	// Counters are the sums that every row keeps.
	Counters = spend.Counters
	// Entity is one thing that spend counts on.
	Entity = spend.Entity
	// EntityType says what kind of thing it is.
	EntityType = spend.EntityType
	// UpdateError says which field of which update is refused, and what is allowed. It wraps
	// ErrInvalidUpdate.
	UpdateError = spend.UpdateError
	// FactKind says what an id names: an update, or all of one call.
	FactKind = spend.FactKind
	// BatchKeys are the keys by which batches are signed and known to be the deployment's own.
	BatchKeys = spend.BatchKeys
)

// The statuses. The zero value is Success.
const (
	Success = spend.Success
	Failure = spend.Failure
)

// The entity types.
const (
	APIKey       = spend.APIKey
	User         = spend.User
	EndUser      = spend.EndUser
	Team         = spend.Team
	TeamMember   = spend.TeamMember
	Organization = spend.Organization
	Tag          = spend.Tag
	Agent        = spend.Agent
)

// What an id names. An update and a call may have equal ids.
const (
	UpdateFact  = spend.UpdateFact
	RequestFact = spend.RequestFact
)

// Bounds of an Update, and of Config.Shards.
const (
	MaxIDBytes = spend.MaxIDBytes
	MaxTags    = spend.MaxTags
	MaxTokens  = spend.MaxTokens
	MaxAge     = spend.MaxAge
	MaxAhead   = spend.MaxAhead
	MaxShards  = spend.MaxShards
)

// MaxSpend bounds the size of Update.Spend: 10^9 dollars.
var MaxSpend = spend.MaxSpend

// ErrInvalidUpdate is wrapped by every *UpdateError.
var ErrInvalidUpdate = spend.ErrInvalidUpdate

// Dollars returns n dollars.
func Dollars(n int64) Amount { return spend.Dollars(n) }

// Picodollars returns n times 10⁻¹² dollars.
func Picodollars(n int64) Amount { return spend.Picodollars(n) }

// ParseAmount reads a number of dollars, as package spend's function of that name does.
func ParseAmount[T string | []byte](text T) (Amount, error) { return spend.ParseAmount(text) }

// DimensionNames returns the names of the five dimensions, as Config.RollupDimensions takes them.
func DimensionNames() []string { return spend.DimensionNames() }
