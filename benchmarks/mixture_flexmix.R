# A mixture of logistic regressions by user, fitted by flexmix from one random start. Called by mixture_vs_flexmix.py:
#   Rscript mixture_flexmix.R comparisons.csv K seed
# The file has a column `user` and one column for each feature, chosen minus rejected. Every answer is a "yes" and there is no
# intercept, so that the model is a mixture of Bradley-Terry models; minprior = 0 keeps small components. Prints seconds, processor seconds, iterations, log-likelihood.
suppressMessages(library(flexmix))
arg <- commandArgs(TRUE)
d <- read.csv(arg[1])
user <- factor(d$user)
x <- as.matrix(d[, -1])
y <- cbind(yes = rep(1, nrow(x)), no = 0)
set.seed(as.integer(arg[3]))
seconds <- system.time(
  f <- flexmix(y ~ x - 1 | user, k = as.integer(arg[2]), model = FLXMRglm(family = "binomial"), control = list(minprior = 0))
)
cat(sprintf("%.4f %.4f %d %.6f\n", seconds["elapsed"], seconds["user.self"] + seconds["sys.self"], f@iter, as.numeric(logLik(f))))
