package spend

// Counters are the sums that every row keeps. What counts is said here, and once: batches,
// statements, reports and the API go by CountNames and Count. A new counter has a field in Cost and
// in Counters, a name, a case, its place in Add and AddCost, and a column of each table.
type Counters struct {
	Spend                    Amount `json:"spend"`
	SuccessfulRequests       int64  `json:"successful_requests"`
	FailedRequests           int64  `json:"failed_requests"`
	PromptTokens             int64  `json:"prompt_tokens"`
	CompletionTokens         int64  `json:"completion_tokens"`
	CacheReadInputTokens     int64  `json:"cache_read_input_tokens"`
	CacheCreationInputTokens int64  `json:"cache_creation_input_tokens"`
}

// Counts is the number of whole numbers among the counters: all but Spend.
const Counts = 6

// requestCounts is how many of these count requests. The others count tokens.
const requestCounts = 2

// countNames are in the order of the batch format, where they may only be added to.
var countNames = [Counts]string{
	"successful_requests", "failed_requests", "prompt_tokens", "completion_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
}

// CountNames returns the names of the whole numbers among the counters, as columns, reports and the
// API have them.
func CountNames() []string { return append([]string(nil), countNames[:]...) }

// TokenNames returns those of them that count tokens, as updates have them.
func TokenNames() []string { return append([]string(nil), countNames[requestCounts:]...) }

// Count returns the i-th whole number among the counters, in the order of CountNames.
func (c *Counters) Count(i int) *int64 {
	switch i {
	case 0:
		return &c.SuccessfulRequests
	case 1:
		return &c.FailedRequests
	case 2:
		return &c.PromptTokens
	case 3:
		return &c.CompletionTokens
	case 4:
		return &c.CacheReadInputTokens
	default:
		return &c.CacheCreationInputTokens
	}
}

// Tokens returns the i-th number of tokens of the cost, in the order of TokenNames.
func (c *Cost) Tokens(i int) *int64 {
	switch i {
	case 0:
		return &c.PromptTokens
	case 1:
		return &c.CompletionTokens
	case 2:
		return &c.CacheReadInputTokens
	default:
		return &c.CacheCreationInputTokens
	}
}

// APIRequests returns the number of requests, successful and failed.
func (c *Counters) APIRequests() int64 { return c.SuccessfulRequests + c.FailedRequests }

// Bound returns a number that none of the whole numbers is above, and that is less than twice the
// largest: all their bits.
func (c *Counters) Bound() uint64 {
	return uint64(c.SuccessfulRequests | c.FailedRequests | c.PromptTokens | c.CompletionTokens | c.CacheReadInputTokens | c.CacheCreationInputTokens)
}

// Add adds d to c.
func (c *Counters) Add(d *Counters) {
	c.Spend = c.Spend.Add(d.Spend)
	c.SuccessfulRequests += d.SuccessfulRequests
	c.FailedRequests += d.FailedRequests
	c.PromptTokens += d.PromptTokens
	c.CompletionTokens += d.CompletionTokens
	c.CacheReadInputTokens += d.CacheReadInputTokens
	c.CacheCreationInputTokens += d.CacheCreationInputTokens
}

// AddCost adds one request to c.
func (c *Counters) AddCost(one *Cost) {
	c.Spend = c.Spend.Add(one.Spend)
	if one.Status == Failure {
		c.FailedRequests++
	} else {
		c.SuccessfulRequests++
	}
	c.PromptTokens += one.PromptTokens
	c.CompletionTokens += one.CompletionTokens
	c.CacheReadInputTokens += one.CacheReadInputTokens
	c.CacheCreationInputTokens += one.CacheCreationInputTokens
}
