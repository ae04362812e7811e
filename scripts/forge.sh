#!/usr/bin/env bash
# Write a pipeline's result as a comment or an issue, with gh on GitHub and glab on GitLab. A mark in the text
# identifies an existing one, which is updated in place, so there is one comment and one issue per KEY.
#
#   scripts/forge.sh comment NUMBER KEY FILE        a comment on the pull or merge request NUMBER
#   scripts/forge.sh issue KEY TITLE LABEL RC FILE  an issue; RC is the exit code of the check: 7 (drift) or 3 (orphans)
#                                                   opens or updates it, 0 closes it, any other changes nothing
set -euo pipefail

text=$(mktemp)
trap 'rm -f "$text"' EXIT

if [ -n "${GITHUB_REPOSITORY:-}" ]; then
  api=(gh api) base="repos/$GITHUB_REPOSITORY" change=PATCH number=number body=body labels='labels[]'
  open='state=open' close='state=closed' is_own='.user.type == "Bot"' # anyone can write a mark
  reviews=issues notes=comments edited="$base/issues/comments"
elif [ -n "${CI_PROJECT_ID:-}" ]; then
  api=(glab api) base="projects/$CI_PROJECT_ID" change=PUT number=iid body=description labels=labels
  open='state=opened' close='state_event=close' is_own=true
  reviews=merge_requests notes=notes edited="$base/merge_requests/${2:-}/notes"
else
  echo "error: neither GITHUB_REPOSITORY nor CI_PROJECT_ID is set" >&2
  exit 2
fi

send() { "${api[@]}" --silent --method "$@"; }

prepare_text() { # KEY FILE: both forges accept at least 65,000 characters
  mark="<!-- vast-reranker: $1 -->"
  { echo "$mark"; head -c 60000 "$2"; } >"$text"
}

find_ids() { # PATH ID-FIELD TEXT-FIELD: ids of entries with the mark, oldest first
  "${api[@]}" --paginate "$1" |
    jq -r --arg mark "$mark" ".[] | select($is_own and (.$3 // \"\" | startswith(\$mark))) | .$2" | sort -n
}

case "${1:-}" in
comment)
  prepare_text "$3" "$4"
  thread="$base/$reviews/$2/$notes"
  id=$(find_ids "$thread?per_page=100" id body | head -n 1)
  if [ -n "$id" ]; then
    send "$change" "$edited/$id" --field "body=@$text"
  else
    send POST "$thread" --field "body=@$text"
  fi
  ;;
issue)
  key=$2 title=$3 label=$4 rc=$5 first=''
  prepare_text "$key" "$6"
  case "$rc" in 0 | 3 | 7) ;; *)
    echo "exit code $rc: the check failed, so the issue is unchanged" >&2
    exit 0
    ;;
  esac
  for id in $(find_ids "$base/issues?$open&labels=$label&per_page=100" "$number" "$body"); do
    if [ "$rc" -ne 0 ] && [ -z "$first" ]; then
      first=$id
      send "$change" "$base/issues/$id" --raw-field "title=$title" --field "$body=@$text"
      continue
    fi
    reason=$([ "$rc" -eq 0 ] && echo "Closed: the check finds nothing any more." || echo "Closed: duplicate of #$first.")
    send POST "$base/issues/$id/$notes" --raw-field "body=$reason"
    send "$change" "$base/issues/$id" --raw-field "$close"
  done
  if [ "$rc" -ne 0 ] && [ -z "$first" ]; then
    send POST "$base/issues" --raw-field "title=$title" --field "$body=@$text" --raw-field "$labels=$label"
  fi
  ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
