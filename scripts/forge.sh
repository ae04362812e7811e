#!/usr/bin/env bash
# Write what a pipeline found where people see it, by gh on GitHub and glab on GitLab. What is there already is found by a
# mark in its text and changed in place, so there is one comment and one issue for each KEY.
#
#   scripts/forge.sh comment NUMBER KEY FILE        a comment of the pull or merge request NUMBER
#   scripts/forge.sh issue KEY TITLE LABEL RC FILE  an issue while RC, the exit code of what looked, is 7 (drift) or 3
#                                                   (orphans); closed at 0; left as it is at any other, which tells nothing
set -euo pipefail

text=$(mktemp)
trap 'rm -f "$text"' EXIT

if [ -n "${GITHUB_REPOSITORY:-}" ]; then
  api=(gh api) base="repos/$GITHUB_REPOSITORY" change=PATCH number=number body=body labels='labels[]'
  open='state=open' close='state=closed' own='.user.type == "Bot"' # anyone can write a mark
  reviews=issues notes=comments edited="$base/issues/comments"
elif [ -n "${CI_PROJECT_ID:-}" ]; then
  api=(glab api) base="projects/$CI_PROJECT_ID" change=PUT number=iid body=description labels=labels
  open='state=opened' close='state_event=close' own=true
  reviews=merge_requests notes=notes edited="$base/merge_requests/${2:-}/notes"
else
  echo "error: no forge: neither GITHUB_REPOSITORY nor CI_PROJECT_ID is set" >&2
  exit 2
fi

send() { "${api[@]}" --silent --method "$@"; }

marked() { # KEY FILE: both forges take 65,000 characters at least
  mark="<!-- vast-reranker: $1 -->"
  { echo "$mark"; head -c 60000 "$2"; } >"$text"
}

found() { # PATH ID-FIELD TEXT-FIELD: ids of ours, oldest first
  "${api[@]}" --paginate "$1" |
    jq -r --arg mark "$mark" ".[] | select($own and (.$3 // \"\" | startswith(\$mark))) | .$2" | sort -n
}

case "${1:-}" in
comment)
  marked "$3" "$4"
  thread="$base/$reviews/$2/$notes"
  id=$(found "$thread?per_page=100" id body | head -n 1)
  if [ -n "$id" ]; then
    send "$change" "$edited/$id" --field "body=@$text"
  else
    send POST "$thread" --field "body=@$text"
  fi
  ;;
issue)
  key=$2 title=$3 label=$4 rc=$5 first=''
  marked "$key" "$6"
  case "$rc" in 0 | 3 | 7) ;; *)
    echo "exit code $rc tells nothing about it: the issue is left as it is" >&2
    exit 0
    ;;
  esac
  for id in $(found "$base/issues?$open&labels=$label&per_page=100" "$number" "$body"); do
    if [ "$rc" -ne 0 ] && [ -z "$first" ]; then
      first=$id
      send "$change" "$base/issues/$id" --raw-field "title=$title" --field "$body=@$text"
      continue
    fi
    why=$([ "$rc" -eq 0 ] && echo "Closed: nothing is found any more." || echo "Closed: the same as #$first.")
    send POST "$base/issues/$id/$notes" --raw-field "body=$why"
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
